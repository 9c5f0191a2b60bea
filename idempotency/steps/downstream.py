from __future__ import annotations

from uuid import UUID

from idempotency.keys import ScopedKey, digest
from idempotency.nesting import innermost


def identity_of(scope: bytes, key_digest: bytes) -> bytes:
    return scope + key_digest


def downstream_key(name: str = "") -> str:
    """What to hand on as ``Idempotency-Key``, in a block under a key: the same whenever the same operation
    runs again. A UUID. ``name``: which of its calls it is for, where there are several.

    Within a step, ask the step: ``charge.downstream_key``.
    """
    key: ScopedKey | None = innermost("operation_key") or innermost("key")
    if key is None:
        raise RuntimeError(
            "A downstream key is derived from the operation's own, and none is under way here."
        )
    identity = identity_of(key.scope, key.key_digest)
    return str(UUID(bytes=digest(b"idem-downstream", (identity.hex(), name))))


def on_behalf_of() -> tuple[str, str]:
    """Whose operation it is, kind and identifier, such as ``("auth.user", "7")``: the completer runs it on
    the same caller's behalf. Within an operation."""
    run = innermost("run")
    if run is None:
        raise RuntimeError("Nobody's operation is under way here.")
    principal: tuple[str, str] = run.principal
    return principal
