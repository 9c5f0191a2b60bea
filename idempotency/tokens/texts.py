"""What a token looks like on the wire, and under which digests it is known.

32 characters of base64url: eight name the holder's place in the store, 24 are the secret (144 bits).
Only digests are stored.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from functools import cached_property

from django.utils.crypto import salted_hmac

from idempotency.exceptions import InvalidToken
from idempotency.keys import ScopedKey, digest, principal_digest

PLACE_LENGTH = 8
SECRET_BYTES = 18
WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{32}")
LONGEST_PURPOSE = 100


def new_texts(principal: tuple[str, str], count: int) -> list[str]:
    """So many fresh tokens of one holder, all of which name the same place.

    A Redis Cluster keeps what has the same hash tag on one node, so that they can be issued and
    counted in one step. The place is keyed: it does not tell who the holder is.
    """
    holder = salted_hmac("idempotency.token-place", principal_digest(*principal)).digest()
    place = urlsafe_b64encode(holder[:6]).decode()
    return [place + secrets.token_urlsafe(SECRET_BYTES) for _ in range(count)]


def valid_purpose(purpose: str) -> str:
    if not isinstance(purpose, str) or len(purpose) > LONGEST_PURPOSE:
        raise ValueError(f"A token's purpose is a text of at most {LONGEST_PURPOSE} characters.")
    return purpose


@dataclass(frozen=True)
class PresentedToken:
    """A token with whom and what it is for, as they were when issued or are when it is used."""

    text: str
    principal: tuple[str, str]
    purpose: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not WELL_FORMED.fullmatch(self.text):
            raise InvalidToken

    @property
    def place(self) -> str:
        return self.text[:PLACE_LENGTH]

    @cached_property
    def digest(self) -> bytes:
        return digest(b"idem-token", (self.text,))

    @cached_property
    def binding(self) -> bytes:
        return digest(b"idem-binding", (*self.principal, self.purpose))

    @cached_property
    def key(self) -> ScopedKey:
        """What signals and the log know it by."""
        return ScopedKey(self.principal, f"token {self.purpose}".rstrip(), self.digest.hex())

    def __repr__(self) -> str:
        return f"<PresentedToken {self.digest.hex()[:12]}>"
