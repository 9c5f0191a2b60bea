"""What was asked, as a digest: the same key with another payload is a client's mistake.

A fingerprint is keyed, so that a stolen table does not confirm guesses at small payloads, and
versioned, so that a later release may digest otherwise.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from hashlib import sha256

from django.conf import settings
from django.utils.encoding import force_bytes

VERSION = b"\x01"
MAC_SIZE = 16


class Fingerprint:
    """``material`` is the digest of everything that was asked; it is never stored unkeyed."""

    def __init__(self, material: bytes) -> None:
        self.material = material

    @property
    def value(self) -> bytes:
        """The 17 bytes that are stored."""
        return self._under(settings.SECRET_KEY)

    def matches(self, stored: bytes) -> bool:
        secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        return any(hmac.compare_digest(self._under(secret), stored) for secret in secrets)

    def _under(self, secret: str | bytes) -> bytes:
        return VERSION + hmac.digest(mac_key(secret), self.material, "sha256")[:MAC_SIZE]


class AnyPayload(Fingerprint):
    """Of what is known by its id alone, or of what nobody asks for."""

    def __init__(self) -> None:
        super().__init__(b"")

    @property
    def value(self) -> bytes:
        return bytes(1 + MAC_SIZE)

    def matches(self, stored: bytes) -> bool:
        return True


@lru_cache(maxsize=8)
def mac_key(secret: str | bytes) -> bytes:
    return sha256(b"idempotency.fingerprint" + force_bytes(secret)).digest()
