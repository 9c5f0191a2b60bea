from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connections, transaction
from django.db.models import DateTimeField

from idempotency.clock import now
from idempotency.database import DatabaseNow, insert_once
from idempotency.locks.base import LONGEST_PAUSE, BaseLockStore, Ticket
from idempotency.models import LockLease, LockLeaseQuerySet
from idempotency.shards.routing import database_for
from idempotency.transactions import asked, is_within_transaction, repeated


class DatabaseLockStore(BaseLockStore):
    """Locks as rows with a deadline. LOCATION is a database alias, by default the records'.

    Not PostgreSQL's advisory locks and MySQL's GET_LOCK: those of a holder that is halted stay for ever,
    a pooler gives them to somebody else, and they are gone with a connection that is made anew.
    """

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.database: str = self.location or database_for(LockLease, instead="set LOCATION")

    @property
    def rows(self) -> LockLeaseQuerySet:
        return LockLease.objects.using(self.database)

    def acquire(self, ticket: Ticket, ttl: float, wait: float | None) -> float | None:
        self._refuse_transaction(ticket.name)
        return super().acquire(ticket, ttl, wait)

    def ask(self, ticket: Ticket, ttl: float, *, waits: bool) -> float | None:
        ticket.asked_at = now()
        with asked(self.database):
            if self._is_seen_held(ticket):
                return LONGEST_PAUSE
            held = repeated(lambda: self._ask(ticket, ttl), using=self.database)
        return None if held else LONGEST_PAUSE

    def _is_seen_held(self, ticket: Ticket) -> bool:
        """SQLite has one writer at a time, and the holder may well be it: to write would be to wait."""
        if connections[self.database].vendor != "sqlite":
            return False
        others = self.rows.filter(digest=ticket.digest).exclude(owner=ticket.nonce)
        return others.filter(expires_at__gt=DatabaseNow()).exists()

    def _ask(self, ticket: Ticket, ttl: float) -> bool:
        row = LockLease(digest=ticket.digest, owner=ticket.nonce, expires_at=self._deadline(ttl))
        if insert_once(row, self.database):
            return True
        own = self.rows.filter(digest=ticket.digest)
        free = own.filter(expires_at__lte=DatabaseNow()) | own.filter(owner=ticket.nonce)
        return free.update(owner=ticket.nonce, expires_at=row.expires_at) == 1

    def renew(self, ticket: Ticket, ttl: float) -> bool:
        asked_at = now()
        with asked(self.database):
            own = self.rows.filter(digest=ticket.digest, owner=ticket.nonce)
            renewed = own.update(expires_at=self._deadline(ttl)) == 1
        if renewed:
            ticket.asked_at = asked_at
        return renewed

    def holds(self, ticket: Ticket) -> bool:
        with asked(self.database):
            return self.rows.filter(
                digest=ticket.digest, owner=ticket.nonce, expires_at__gt=DatabaseNow()
            ).exists()

    def release(self, ticket: Ticket) -> bool | None:
        with asked(self.database):
            own = self.rows.filter(digest=ticket.digest)
            if own.filter(owner=ticket.nonce).delete()[0]:
                return True
            return False if own.exists() else None

    def is_renewable(self, ticket: Ticket) -> bool:
        # A TestCase's transaction: the thread that renews would see nothing of it.
        return not connections[self.database].in_atomic_block

    def _deadline(self, ttl: float) -> Any:
        later: Any = DatabaseNow() + timedelta(seconds=ttl)
        later.output_field = DateTimeField()
        return later

    def _refuse_transaction(self, name: str) -> None:
        """Nobody else would see the lock before the commit; nor, released within, the work it guarded."""
        if is_within_transaction(self.database):
            raise transaction.TransactionManagementError(
                f"The lock {name!r} is taken within a transaction, and would be free before that commits: "
                "take it first, and open the transaction inside. Under ATOMIC_REQUESTS put "
                "@transaction.non_atomic_requests on the view, or lock the row with select_for_update()."
            )
