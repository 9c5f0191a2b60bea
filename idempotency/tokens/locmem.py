from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from django.utils import timezone

from idempotency.exceptions import TooManyTokens
from idempotency.tokens.answers import Answer
from idempotency.tokens.base import BaseTokenStore
from idempotency.tokens.texts import PresentedToken


@dataclass
class Entry:
    principal: tuple[str, str]
    binding: bytes
    expires_at: float
    kept_until: float
    nonce: bytes | None = None


_lock = Lock()
_entries: dict[tuple[str, bytes], Entry] = {}


class LocMemTokenStore(BaseTokenStore):
    """Tokens in the memory of one process, for tests that have no services: another process knows
    nothing of them. A system check refuses it elsewhere."""

    def create(self, batch: Sequence[PresentedToken]) -> datetime:
        now = time.monotonic()
        until = now + self.lifetime.total_seconds()
        with _lock:
            for name in [name for name, entry in _entries.items() if entry.kept_until <= now]:
                del _entries[name]
            held = sum(
                entry.principal == batch[0].principal and entry.expires_at > now
                for (alias, _), entry in _entries.items()
                if alias == self.alias
            )
            if held + len(batch) > self.limit:
                raise TooManyTokens
            for token in batch:
                _entries[self.alias, token.digest] = Entry(token.principal, token.binding, until, until)
        return timezone.now() + self.lifetime

    def take(self, token: PresentedToken, nonce: bytes, *, comes_again: bool = False) -> Answer:
        now = time.monotonic()
        with _lock:
            entry = _entries.get((self.alias, token.digest))
            if entry is None or entry.kept_until <= now:
                return Answer.EXPIRED
            if entry.binding != token.binding:
                return Answer.FOREIGN
            if entry.nonce is None:
                entry.nonce = nonce
                entry.kept_until = entry.expires_at + self.retention.total_seconds()
            if entry.nonce == nonce and (entry.expires_at > now or not comes_again):
                return Answer.WON
            return Answer.USED

    def give_back(self, token: PresentedToken, nonce: bytes) -> None:
        with _lock:
            entry = _entries.get((self.alias, token.digest))
            if entry and entry.nonce == nonce:
                entry.nonce, entry.kept_until = None, entry.expires_at
