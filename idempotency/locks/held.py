from __future__ import annotations

import logging
import os
from contextvars import ContextVar
from threading import Lock as Mutex
from weakref import ref

from idempotency.clock import now
from idempotency.exceptions import LockLost, StoreUnavailable
from idempotency.keys import ScopedKey
from idempotency.locks.base import BaseLockStore, Ticket
from idempotency.locks.fences import Fence, Fences, take_fence
from idempotency.models import LockFence
from idempotency.shards.routing import database_for
from idempotency.signals import announce, lock_lost

logger = logging.getLogger("idempotency")
SOON = 1.0
# Weakly: only whoever has entered a lock keeps it from being forgotten.
_mine: ContextVar[tuple[ref[HeldLock], ...]] = ContextVar("idempotency_locks", default=())


class HeldLock:
    """A lock, from when it was acquired until its block is left.

    ``lost`` and ``remaining`` are what this process knows by itself. A holder may be halted between
    asking and writing: only the fence is proof against that, and goes with what is written.
    """

    def __init__(
        self,
        owner: object,
        store: BaseLockStore,
        ticket: Ticket,
        ttl: float,
        renew_for: float,
    ) -> None:
        self.owner = ref(owner)
        self.store, self.ticket, self.ttl = store, ticket, ttl
        self.is_open = True
        self._pid = os.getpid()
        self._renew_until = now() + renew_for
        # Of one name in two mediums, whose holder is one.
        twin = held_here(ticket.name)
        self._fences: Fences = twin._fences if twin else Fences()
        self._is_lost = False
        self._mutex = Mutex()

    @property
    def name(self) -> str:
        return self.ticket.name

    @property
    def medium(self) -> str:
        return f"lock {self.store.alias}"

    @property
    def key(self) -> ScopedKey:
        """What signals and the log know it by."""
        return key_of(self.name, self.store.alias)

    @property
    def remaining(self) -> float:
        """Seconds for which it is still held at least, unless its medium forgets it; 0 when it is lost."""
        if self._is_lost or self._pid != os.getpid():
            return 0.0
        return self.store.seconds_left(self.ticket, self.ttl)

    @property
    def lost(self) -> bool:
        """Whether it is known to be lost. Asks nobody."""
        return self.remaining <= 0

    def check(self) -> None:
        """Ask the medium. Raises LockLost, or StoreUnavailable when it cannot be asked."""
        if not self.is_open:
            raise LockLost(self.name, f"The block of the lock {self.name!r} was left already.")
        if not self._is_lost and not self._is_held():
            self.lose()
        if self._is_lost:
            raise LockLost(self.name)

    def _is_held(self) -> bool:
        if self._pid != os.getpid():
            return False
        if self.remaining > 0:
            return self.store.holds(self.ticket)
        try:
            # Its time is over by this process's clock. If nobody else has it, it may be had anew.
            return self.store.renew(self.ticket, self.ttl)
        except StoreUnavailable:
            return False

    @property
    def fence(self) -> int:
        """``fence_in()`` the database of the records."""
        return self.fence_in(database_for(LockFence, instead="ask for fence_in(alias)"))

    def fence_in(self, using: str) -> int:
        """A number greater than that of all who held the lock before, from the database it is for.

        It is taken when it is first asked for, and the lock then checked again: raises LockLost. Write
        it with what the lock guards, and only where no greater one is (see FencedMixin). Ask for it
        before the transaction, which otherwise keeps the next holder waiting for its own.
        """
        if self._pid != os.getpid():
            raise LockLost(self.name, f"The lock {self.name!r} is held by this process's parent, not by it.")
        with self._fences.mutex:
            known = self._fences.known.get(using)
            if known is None or not known.stands:
                known = Fence(take_fence(self.ticket.digest, using), using)
                # In this order: one who was halted before taking it has a number higher than that of the
                # holder since, and must not use it.
                self.check()
                self._fences.known[using] = known
        return known.number

    def lose(self) -> None:
        """Note that it is lost, and say so once."""
        with self._mutex:
            first, self._is_lost = not self._is_lost, True
        if first:
            announce(lock_lost, self.key, using=self.store.database, mechanism="lock")

    def keep(self) -> float | None:
        """Renew it. Seconds until that is to be done again; None: never."""
        if self._is_lost:
            return None
        if now() >= self._renew_until:
            return self._lapse()
        try:
            renewed = self.store.renew(self.ticket, self.ttl)
        except StoreUnavailable:
            # Not lost for that: on SQLite it may be the holder who keeps others from writing.
            return min(SOON, self.ttl / 10)
        with self._mutex:
            # Released meanwhile.
            if not self.is_open:
                return None
        if not renewed:
            self.lose()
            return None
        return self.ttl / 3

    def _lapse(self) -> float | None:
        if not self.store.renews_itself and self.remaining > 0:
            return self.remaining
        if self.store.renews_itself:
            self.store.release(self.ticket)
        self.lose()
        return None

    def close(self) -> bool:
        """Release it. Whether it was held until now, as far as is known."""
        with self._mutex:
            self.is_open = False
        kept = self.remaining > 0
        try:
            # Forked off its holder, this process has no lock to release.
            if self._pid == os.getpid():
                released = self.store.release(self.ticket)
                kept = not self._is_lost and (kept if released is None else released)
        except StoreUnavailable:
            logger.warning("not released, and free when its time is over: %s", self.key)
        except Exception:
            # Whatever it is, it must not take the place of what the block has raised.
            logger.exception("not released, and free when its time is over: %s", self.key)
        if not kept:
            self.lose()
        return kept


def key_of(name: str, alias: str) -> ScopedKey:
    return ScopedKey(("lock", alias), "lock", name)


def mine() -> list[HeldLock]:
    """The locks whose blocks the caller is in, the innermost last."""
    return [held for known in _mine.get() if (held := known()) and held.is_open]


def held_by(owner: object) -> HeldLock | None:
    """The lock whose block this very object has entered, in this context."""
    return next((held for held in mine() if held.owner() is owner), None)


def held_here(name: str, alias: str | None = None) -> HeldLock | None:
    """The lock of this name whose block the caller is in, in that medium or in whatever one."""
    named = (held for held in reversed(mine()) if held.name == name)
    return next((held for held in named if alias in (None, held.store.alias)), None)


def adopt(held: HeldLock) -> None:
    """Note that the current context is within its block."""
    _mine.set((*(ref(other) for other in mine() if other is not held), ref(held)))


def disown(held: HeldLock) -> None:
    _mine.set(tuple(ref(other) for other in mine() if other is not held))
