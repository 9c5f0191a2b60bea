"""Acquiring and leaving, which are to end well although a reply is lost or a signal's handler raises."""

from __future__ import annotations

from contextlib import suppress

from idempotency.exceptions import LockLost, StoreUnavailable
from idempotency.locks.base import BaseLockStore, Ticket
from idempotency.locks.held import HeldLock, disown
from idempotency.renewal import no_longer_renew
from idempotency.signals import abandoned, announce, completed

ATTEMPTS = 2


def acquire(store: BaseLockStore, ticket: Ticket, ttl: float, wait: float | None) -> float | None:
    """``store.acquire()``; a reply may be lost, so it is asked again, with the same ticket."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return store.acquire(ticket, ttl, wait)
        except BaseException as error:
            if isinstance(error, StoreUnavailable) and attempt < ATTEMPTS:
                continue
            # It may be held after all, by one who never gets in: also when a signal's handler has raised.
            if ticket.asked_at:
                with suppress(Exception):
                    store.release(ticket)
            raise
    return None


def leave(held: HeldLock, error: BaseException | None = None) -> None:
    no_longer_renew(held)
    disown(held)
    kept = held.close()
    over = completed if kept and error is None else abandoned
    announce(over, held.key, using=held.store.database, mechanism="lock")
    if not kept and error is None:
        raise LockLost(held.name)
