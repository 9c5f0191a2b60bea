from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Self

from idempotency.exceptions import AlreadyHandled, LockBusy, LockLost
from idempotency.keys import ScopedKey, digest
from idempotency.locks.held import HeldLock, adopt, disown
from idempotency.locks.lock import Lock, OnBusy, Seconds
from idempotency.locks.steps import leave
from idempotency.unique_ids import UniqueIdGuard, UniqueIds, unique_ids


def first_wins(
    *,
    ttl: Seconds | None = None,
    wait: Seconds | None = 0,
    on_busy: OnBusy = "raise",
    renew_for: Seconds | None = None,
    alias: str = "default",
    done: UniqueIds | None = None,
) -> FirstWins:
    """``@idempotent(guard=first_wins(), key=…)``: the first call runs under a lock, the rest are discarded.

    A lock alone lets a late duplicate run when it was released. A done mark outlives it: ``done``, by
    default ``unique_ids()``, for as long as its WINDOW: a day, unless its alias says more. In the
    database of the work it commits with the work, and holds even where the lock's medium has given the
    lock to two.

    While the first is at work, others raise LockBusy; with ``on_busy="skip"`` they are discarded at once,
    and lost if the first fails. The other arguments are those of ``lock()``.
    """
    return FirstWins(
        Lock("first-wins", ttl=ttl, wait=wait, on_busy=on_busy, renew_for=renew_for, alias=alias),
        done or unique_ids(),
    )


class FirstWins:
    """A lock with a done mark, for each key."""

    def __init__(self, lock: Lock[HeldLock | None], done: UniqueIds) -> None:
        self.lock, self.done = lock, done

    def guard_for(self, key: ScopedKey, *, using: str | None = None) -> FirstWinsGuard:
        return FirstWinsGuard(self.lock, self.done.guard_for(key, using=using))


class FirstWinsGuard:
    """Entered once per key: by whoever holds the lock, and finds no done mark."""

    mechanism = "lock"

    def __init__(self, lock: Lock[HeldLock | None], done: UniqueIdGuard) -> None:
        self.key, self.done = done.key, done
        self.lock = lock.named(digest(b"idem-first-wins", (done.digest.hex(),)).hex())
        self._held: HeldLock | None = None
        # Whoever waits outside of it comes again, and is not yet to be skipped.
        self._is_patient = False

    @property
    def database(self) -> str | None:
        return self.done.database

    @property
    def is_open(self) -> bool:
        return self.done.is_open

    def take_patience(self) -> float | None:
        patience, self.lock.wait = self.lock.wait, 0.0
        self._is_patient = patience != 0
        return patience

    def lose_patience(self) -> None:
        self._is_patient = False

    def adopt(self) -> None:
        self.done.adopt()
        if self._held:
            adopt(self._held)

    def disown(self) -> None:
        self.done.disown()
        if self._held:
            disown(self._held)

    def __enter__(self) -> Self:
        try:
            self._held = self.lock.hold(self.lock.wait)
        except LockBusy as busy:
            if self.lock.on_busy == "skip" and not self._is_patient:
                raise AlreadyHandled(self, "Somebody else is at it, so this is left to them.") from busy
            raise LockBusy(str(self.key), busy.retry_after or 1) from busy
        adopt(self._held)
        try:
            self.done.__enter__()
        except BaseException as error:
            leave(self._held, error)
            if isinstance(error, AlreadyHandled):
                raise AlreadyHandled(self) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._held is None:
            return
        lost = LockLost(str(self.key)) if error is None and self._is_lost(self._held) else None
        failure = error or lost
        try:
            # What was done without the lock is rolled back.
            self.done.__exit__(*((type(lost), lost, None) if lost else (kind, error, traceback)))
        except BaseException as raised:
            failure = raised
            raise
        finally:
            with suppress(LockLost):  # of no consequence once the done mark is there
                leave(self._held, failure)
        if lost:
            raise lost

    @staticmethod
    def _is_lost(held: HeldLock) -> bool:
        """Asked only where the clock says so, which may be wrong: on SQLite the work's own transaction
        keeps the thread that renews from writing."""
        try:
            if held.lost:
                held.check()
        except LockLost:
            return True
        return False
