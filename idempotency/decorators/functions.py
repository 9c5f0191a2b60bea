from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from idempotency.functions import GuardedDecorator, GuardSource, IdempotentFunction
from idempotency.keys import Scope
from idempotency.modes import Mode, mode_fault
from idempotency.steps import Operation

P = ParamSpec("P")
R = TypeVar("R")


@overload
def idempotent(
    *,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
    shard_key: Callable[..., Scope] | None = None,
    retention: timedelta | None = None,
    wait: timedelta | None = None,
    mode: Mode = "atomic",
    lease: timedelta | None = None,
    rerun: bool = False,
    steps: Operation[..., Any] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
@overload
def idempotent(
    *,
    guard: GuardSource,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
    shard_key: Callable[..., Scope] | None = None,
) -> GuardedDecorator: ...
def idempotent(
    *,
    guard: GuardSource | None = None,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
    shard_key: Callable[..., Scope] | None = None,
    retention: timedelta | None = None,
    wait: timedelta | None = None,
    mode: Mode = "atomic",
    lease: timedelta | None = None,
    rerun: bool = False,
    steps: Operation[..., Any] | None = None,
) -> Any:
    """Make all calls of a function with the same key, sync or async, happen once.

    ``key``: the name of the argument that is the key (its ``str()`` is), or a function of the same
    arguments that returns it. ``operation``: a stable name, by default module and name. ``scope``: a
    function of the arguments that says whose key it is. ``using``: alias of the work's database; on shards,
    ``shard_key``: a function of the arguments that says by what it is found (by default the scope).

    By default a record guards it: the arguments are the payload, and the return value is stored as JSON
    and given back to later calls. With ``guard``, such as ``unique_ids()`` or ``first_wins()``, nothing
    is stored: later calls are skipped, and return None.

    The call raises OperationInProgress, StoreUnavailable, InvalidKey, and with a record also
    FingerprintMismatch, NotFingerprintable (an argument has no digest; nothing ran) or NotStorable (the
    result is not JSON; rolled back). An exception of the function rolls back its writes in the
    database and frees the key.

    ``mode="lease"`` is for what calls outside: see ``idempotency_mode`` and the attributes beside it, of
    which ``lease``, ``rerun`` and ``steps`` are the names here. Then it may also raise OutcomeUnknown.
    """
    of_records: dict[str, Any] = {"retention": retention, "wait": wait, "mode": mode, "lease": lease}
    of_records |= {"rerun": rerun, "steps": steps}
    if guard is not None and (retention is not None or wait is not None or mode != "atomic"):
        raise TypeError("retention, wait and mode are a record's: leave them out, or leave out guard.")
    if fault := mode_fault(mode, lease, rerun, steps):
        raise TypeError(f"@idempotent: {fault}")
    if guard is not None and (isinstance(guard, type) or not hasattr(guard, "guard_for")):
        raise TypeError(f"guard is unique_ids(…), first_wins(…) or the like, not {guard!r}.")

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        return IdempotentFunction(
            function, key, operation, scope, using, guard, shard_key, **of_records
        ).wrapper()

    return decorator
