"""Keys as clients send them, and the digests by which they are compared.

Digests are not keyed by SECRET_KEY: a rotation of secrets must not make yesterday's keys new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from uuid import UUID

from django.db.models import Model

from idempotency.exceptions import InvalidKey, MissingPrincipal

# Whose a key or a token is: a model instance, (kind, identifier), or a text such as a tenant's name.
Scope = str | tuple[str, str] | Model

MAX_KEY_LENGTH = 255
DIGEST_SIZE = 16
ANONYMOUS = ("anonymous", "")
# The principal of all messages: whose they are says their consumer, which is the operation.
INBOX = ("consumer", "")

PRINTABLE = re.compile(r"[\x20-\x7e]+")
# A bare key holds no comma, double quote or blank: servers join repeated headers with commas.
BARE = re.compile(r"[!#-+\--~]+")
# RFC 8941 section 3.3.3: only a double quote and a backslash may be escaped.
QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')


def parse_key(header: str) -> str:
    """The key in a header's value: a Structured Field string (RFC 8941) or a bare token.

    Raises InvalidKey when it is empty, malformed, longer than 255 characters or sent twice.
    """
    text = header.strip(" \t")
    if quoted := QUOTED.fullmatch(text):
        return valid_key(re.sub(r"\\(.)", r"\1", quoted[1]))
    if not BARE.fullmatch(text):
        raise InvalidKey
    return valid_key(text)


def valid_key(key: str) -> str:
    """The key itself, wherever it was taken from, or InvalidKey."""
    if not isinstance(key, str) or len(key) > MAX_KEY_LENGTH or not PRINTABLE.fullmatch(key):
        raise InvalidKey
    return key


def valid_id(value: str | int | UUID, what: str) -> str:
    """An id of somebody else's as a key. Raises InvalidKey, which says what is malformed."""
    is_id = isinstance(value, str | int | UUID) and not isinstance(value, bool)
    try:
        return valid_key(str(value) if is_id else "")
    except InvalidKey as error:
        raise InvalidKey(
            f"The {what} {value!r} is malformed: 1 to 255 printable ASCII characters."
        ) from error


def digest(purpose: bytes, parts: Iterable[str]) -> bytes:
    """Sixteen bytes for a sequence of texts; the lengths keep ("ab", "c") and ("a", "bc") apart."""
    state = blake2b(digest_size=DIGEST_SIZE, person=purpose)
    for part in parts:
        # Surrogates occur in paths that are no UTF-8; they must digest, not fail.
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(encoded))
        state.update(encoded)
    return state.digest()


def principal_of(scope: Scope) -> tuple[str, str]:
    """Kind and identifier. Raises MissingPrincipal where there is none to tell callers apart by."""
    if isinstance(scope, Model):
        # A proxy model's user is the same user.
        kind, identifier = scope._meta.concrete_model._meta.label_lower, scope.pk  # type: ignore[union-attr]
    elif isinstance(scope, str):
        kind, identifier = "scope", scope
    elif scope is None or getattr(scope, "is_anonymous", False):
        raise MissingPrincipal
    elif isinstance(scope, tuple) and len(scope) == 2:
        kind, identifier = scope
    else:
        raise TypeError(
            f"A model instance, a (kind, identifier) pair or a text says whose it is, not {scope!r}."
        )
    if identifier is None:
        raise MissingPrincipal
    return (str(kind), str(identifier))


def named(by: Scope | None) -> str:
    """Who it was, for a log that people read."""
    if by is None:
        return ""
    return (by if isinstance(by, str) else ":".join(principal_of(by)))[:255]


def principal_digest(kind: str, identifier: str) -> bytes:
    return digest(b"idem-principal", (kind, identifier))


@dataclass(frozen=True)
class ScopedKey:
    """What makes an operation one: who asks (kind and identifier), for what, under which key."""

    principal: tuple[str, str]
    operation: str
    key: str

    @cached_property
    def scope(self) -> bytes:
        return digest(b"idem-scope", (*self.principal, self.operation))

    @cached_property
    def key_digest(self) -> bytes:
        return key_digest(self.key)

    @cached_property
    def principal_digest(self) -> bytes:
        return principal_digest(*self.principal)

    @cached_property
    def lock_id(self) -> int:
        """A signed 64-bit name for advisory locks. Two keys that share one merely wait in turn."""
        whole = blake2b(self.scope + self.key_digest, digest_size=8, person=b"idem-lock")
        return int.from_bytes(whole.digest(), "big", signed=True)

    @property
    def kept_key(self) -> str:
        """The key as it is stored to be read: an anonymous caller's is a bearer secret, and is not."""
        return "" if self.principal == ANONYMOUS else self.key

    def __str__(self) -> str:
        return f"{self.operation} {self.key_digest.hex()[:12]}"


def key_digest(key: str) -> bytes:
    return digest(b"idem-key", (key,))
