from __future__ import annotations

import random
import secrets
import time
from abc import abstractmethod
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

from idempotency.clock import now
from idempotency.keys import digest
from idempotency.mediums import BaseMedium

NONCE_BYTES = 16
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.05


@dataclass(eq=False, slots=False)
class Ticket:
    """One attempt to hold a lock. Whoever asks again with it is known to be the same."""

    name: str
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(NONCE_BYTES))
    asked_at: float = 0.0
    """When the medium was asked, at the latest, for the time that the lock is held since."""
    medium: Any = None
    """What the medium itself keeps with it."""

    @cached_property
    def digest(self) -> bytes:
        return digest(b"idem-lock-name", (self.name,))


class BaseLockStore(BaseMedium):
    """Locks in one medium. Of two live holders of a name there is never more than one; what is said of
    later callers is the part of a mark that outlives the lock.

    A holder that dies leaves the lock behind for its ttl at most. One that is halted for longer than that
    still thinks it is a holder: only a fence stops what it writes.
    """

    SETTING = "IDEMPOTENCY_LOCKS"
    DEFAULTS = {
        "BACKEND": "idempotency.locks.database.DatabaseLockStore",
        "LOCATION": None,
        "TTL": timedelta(seconds=30),
        "RENEW_FOR": timedelta(hours=1),
        "CLIENT": {},
    }

    #: Whether a lock is held until it is released, for as long as its process lives.
    renews_itself = False

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.ttl = self.duration("TTL").total_seconds()
        self.renew_for = self.duration("RENEW_FOR", may_be_zero=True).total_seconds()

    def acquire(self, ticket: Ticket, ttl: float, wait: float | None) -> float | None:
        """Hold the lock for ``ttl`` seconds. None: it is held. Otherwise it is busy, after ``wait``
        seconds (None: there is no end to it), and for about so many more.

        Raises StoreUnavailable, after which it is not known whether it is held: release it.
        """
        give_up_at = None if wait is None else now() + wait
        while (busy_for := self.ask(ticket, ttl, waits=wait != 0)) is not None:
            left = LONGEST_PAUSE if give_up_at is None else give_up_at - now()
            if left <= 0:
                return busy_for
            self.pause(ticket, busy_for if give_up_at is None else min(left, busy_for))
        return None

    @abstractmethod
    def ask(self, ticket: Ticket, ttl: float, *, waits: bool) -> float | None:
        """``acquire()`` in one step, without waiting. Sets ``ticket.asked_at``."""

    def pause(self, ticket: Ticket, longest: float) -> None:
        """Return when it is worth asking again, after so many seconds at the latest."""
        time.sleep(min(longest, random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)))

    @abstractmethod
    def renew(self, ticket: Ticket, ttl: float) -> bool:
        """Hold it for ``ttl`` seconds from now. False: it is not this ticket's any more. Raises
        StoreUnavailable."""

    @abstractmethod
    def holds(self, ticket: Ticket) -> bool:
        """Whether the medium, asked now, says that it is this ticket's. Raises StoreUnavailable."""

    @abstractmethod
    def release(self, ticket: Ticket) -> bool | None:
        """Let it go, if it is this ticket's. True: it was, and has been all the time. False: it is known to
        be somebody else's by now. None: it is nobody's. Raises StoreUnavailable, after which it goes
        when its time is over."""

    def seconds_left(self, ticket: Ticket, ttl: float) -> float:
        """By this process's own clock, since the medium was asked last."""
        return max(0.0, ticket.asked_at + ttl - now())

    def is_renewable(self, ticket: Ticket) -> bool:
        return True
