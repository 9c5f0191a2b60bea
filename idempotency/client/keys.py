from __future__ import annotations

import uuid
from hashlib import blake2b

DIGEST_SIZE = 16


def new_key() -> str:
    """A key for one operation, as often as that is sent. Store it with the operation where that is to
    outlive this process."""
    return str(uuid.uuid4())


def key_for(*facts: str | int | uuid.UUID) -> str:
    """The key of the operation that these facts name, such as ``key_for("refund", order.pk, 2)``: the same
    whoever computes it, and after a restart. Facts that are equal as texts are the same."""
    if not facts:
        raise TypeError("key_for() takes the facts that name an operation.")
    material = blake2b(digest_size=DIGEST_SIZE)
    for fact in facts:
        if isinstance(fact, bool) or not isinstance(fact, str | int | uuid.UUID):
            raise TypeError(f"A fact is a text, an int or a UUID, not {fact!r}.")
        text = str(fact).encode()
        material.update(len(text).to_bytes(8, "big") + text)
    return material.hexdigest()
