from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import DatabaseError, connections, transaction
from django.db.models import Q

from idempotency.database import (
    LATER,
    LOCK_WAIT_TIMEOUT,
    DatabaseNow,
    error_number,
    impatient,
    insert_once,
)
from idempotency.exceptions import OperationInProgress, StoreUnavailable
from idempotency.models import UniqueId, UniqueIdQuerySet
from idempotency.shards.claims import held
from idempotency.shards.maps import shard_map
from idempotency.shards.routing import database_for, slot_of
from idempotency.transactions import asked, is_within_transaction, repeated
from idempotency.unique_ids.base import Answer, BaseUniqueIdStore, Said

logger = logging.getLogger("idempotency")
MICROSECOND = timedelta(microseconds=1)
ATTEMPTS = 4
# On shards it is said per call.
UNBOUND = ""
# Rows per statement.
BATCH = 1000
TABLE = UniqueId._meta.db_table
# Lock and insert in one statement: only the unique index is free of snapshots, and sees what was
# committed before the lock was had.
JOIN = f"""
    WITH lock AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(%s) AS mine), added AS (
        INSERT INTO {TABLE} (digest, kept_until, slot)
        SELECT %s, {LATER["postgresql"]}, %s FROM lock WHERE mine
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT mine, EXISTS (SELECT FROM added) FROM lock
"""


class _NoneIsAdded(Exception):
    """Makes an atomic block roll back; never leaves it."""


class Row(NamedTuple):
    pk: int
    digest: bytes
    nonce: bytes | None
    claimed_until: datetime | None
    kept_until: datetime
    now: datetime


class DatabaseUniqueIdStore(BaseUniqueIdStore):
    """Ids in a table. LOCATION is a database alias, by default the records'. SLICE and EXPECTED_IDS mean
    nothing here: an id is remembered for exactly WINDOW, and deleted by ``manage.py purge_idempotency``.

    Where that is the database of the work too, the id counts as handled when the work commits, and not
    at all when it does not: no claim, nothing unknown. ``add()`` within a transaction goes with it too;
    another ``add()`` of the same id then waits.
    """

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.database: str = self.location or (UNBOUND if shard_map() else database_for(UniqueId))
        self.slot: int | None = None

    def bound(self, using: str | None) -> DatabaseUniqueIdStore:
        if self.location or shard_map() is None:
            return self
        store = copy(self)
        store.database = using or database_for(UniqueId, instead="pass using=, or set LOCATION")
        store.slot = slot_of(store.database)
        return store

    @property
    def rows(self) -> UniqueIdQuerySet:
        return UniqueId.objects.using(self.database)

    def join(self, digest: bytes) -> Said:
        connection = connections[self.database]
        row = self._row(digest)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                lock_id = int.from_bytes(digest[:8], "big", signed=True)
                cursor.execute(JOIN, (lock_id, digest, self.window // MICROSECOND, self.slot))
                mine, added = cursor.fetchone()
            if not mine:
                return Said(Answer.CLAIMED)
            return Said(Answer.WON) if added else self._take(row, inserted=False)
        try:
            return self._take(row, inserted=insert_once(row, self.database, impatient(connection)))
        except DatabaseError as error:
            if error_number(error) != LOCK_WAIT_TIMEOUT:
                raise
            return Said(Answer.CLAIMED)

    def add(self, digests: Sequence[bytes], nonce: bytes) -> list[Said]:
        # In one order, so that two callers do not wait for each other.
        rows = [self._row(digest, nonce) for digest in sorted(digests)]
        with asked(self.database):
            said = repeated(lambda: self._add_held(rows, nonce), using=self.database)
        return [said[digest] for digest in digests]

    def _add_held(self, rows: list[UniqueId], nonce: bytes) -> dict[bytes, Said]:
        with held(self.database):
            return self._add(rows, nonce)

    def _add(self, rows: list[UniqueId], nonce: bytes) -> dict[bytes, Said]:
        if len(rows) == 1:
            return {rows[0].digest: self._take(rows[0], inserted=insert_once(rows[0], self.database))}
        said: dict[bytes, Said] = {}
        with suppress(_NoneIsAdded), transaction.atomic(using=self.database):
            for first in range(0, len(rows), BATCH):
                said |= self._add_batch(rows[first : first + BATCH])
            if any(each.answer is Answer.CLAIMED for each in said.values()):
                # What was added meanwhile must not be there when the caller is refused.
                raise _NoneIsAdded
        return said

    def _add_batch(self, rows: list[UniqueId]) -> dict[bytes, Said]:
        self.rows.bulk_create(rows, ignore_conflicts=True)
        found = {row.digest: row for row in self._found([row.digest for row in rows])}
        return {
            row.digest: self._settled(found.get(row.digest), row.nonce) or self._take(row, inserted=False)
            for row in rows
        }

    def claim(self, digest: bytes, nonce: bytes) -> Said:
        if is_within_transaction(self.database):
            raise transaction.TransactionManagementError(
                f"An id is claimed in {self.database!r} within a transaction there, and would be free when "
                "that is rolled back: open it inside, or keep the ids in the database of the work. Under "
                "ATOMIC_REQUESTS put @transaction.non_atomic_requests on the view for that database."
            )
        row = self._row(digest, nonce, is_claim=True)
        with asked(self.database):
            return self._take(row, inserted=insert_once(row, self.database))

    def confirm(self, digest: bytes, nonce: bytes) -> bool:
        row = self._row(digest, nonce, is_claim=True)
        with asked(self.database):
            return self._write(row, Q(nonce=nonce)) or insert_once(row, self.database)

    def finish(self, digest: bytes, nonce: bytes) -> None:
        row = self._row(digest, nonce)

        def mark() -> None:
            if not self._write(row, Q(nonce=nonce)):
                insert_once(row, self.database)

        try:
            self._insist(mark)
        except (StoreUnavailable, OperationInProgress) as error:
            logger.warning("stays claimed until its deadline: id %s: %r", digest.hex(), error)

    def give_up(self, digests: Sequence[bytes], nonce: bytes) -> None:
        try:
            self._insist(lambda: self.rows.filter(digest__in=digests, nonce=nonce).delete())
        except (StoreUnavailable, OperationInProgress) as error:
            logger.warning("cannot be given up: %s ids: %r", len(digests), error)

    def _insist(self, write: Callable[[], object]) -> None:
        """Also where a conflict was lost, or the connection was: the next one is another."""
        for is_last in (False, True):
            try:
                with asked(self.database):
                    repeated(write, using=self.database)
                return
            except StoreUnavailable:
                if is_last or connections[self.database].in_atomic_block:
                    raise

    def contains(self, digest: bytes) -> bool:
        handled = Q(claimed_until=None)
        if self.on_unknown == "discard":
            handled |= Q(claimed_until__lte=DatabaseNow())
        with asked(self.database):
            return self.rows.live().filter(handled, digest=digest).exists()

    def remove(self, digest: bytes, nonce: bytes) -> Said:
        unclaimed = Q(claimed_until=None) | Q(claimed_until__lte=DatabaseNow())
        for _ in range(ATTEMPTS):
            with asked(self.database), held(self.database):
                self.rows.filter(unclaimed, digest=digest).delete()
                found = self._find(digest)
            if found is None or found.claimed_until is None:
                return Said(Answer.WON)
            if found.claimed_until > found.now:
                return Said(Answer.CLAIMED, found.claimed_until - found.now)
            # Its deadline has passed in between.
        raise OperationInProgress

    def _row(self, digest: bytes, nonce: bytes | None = None, *, is_claim: bool = False) -> UniqueId:
        now: Any = DatabaseNow()
        claimed_until = now + self.claim_for if is_claim else None
        kept_until = now + self.window + (self.claim_for if is_claim else timedelta(0))
        values = {"claimed_until": claimed_until, "kept_until": kept_until, "slot": self.slot}
        return UniqueId(digest=digest, nonce=nonce, **values)

    def _take(self, row: UniqueId, *, inserted: bool) -> Said:
        """The row is this caller's, or takes the place of one that stands for nothing any more."""
        for _ in range(ATTEMPTS):
            if inserted:
                return Said(Answer.WON)
            found = self._find(row.digest)
            if said := self._settled(found, row.nonce):
                return said
            over = Q(kept_until__lte=DatabaseNow()) | Q(claimed_until__lte=DatabaseNow())
            if found and self._write(row, Q(pk=found.pk, nonce=found.nonce) & over):
                return Said(Answer.WON)
            inserted = insert_once(row, self.database)
        raise OperationInProgress

    def _settled(self, found: Row | None, nonce: bytes | None) -> Said | None:
        """What the row says; None where it stands for nothing any more, and may be taken."""
        if found is None:
            return None
        if nonce is not None and found.nonce == nonce:
            return Said(Answer.WON)
        if found.kept_until <= found.now:
            return None
        if found.claimed_until is None:
            return Said(Answer.HANDLED)
        if found.claimed_until > found.now:
            return Said(Answer.CLAIMED, found.claimed_until - found.now)
        return Said(Answer.HANDLED) if self.on_unknown == "discard" else None

    def _find(self, digest: bytes) -> Row | None:
        return next(iter(self._found([digest])), None)

    def _found(self, digests: Sequence[bytes]) -> list[Row]:
        rows = self.rows.filter(digest__in=digests)
        if connections[self.database].vendor == "mysql" and connections[self.database].in_atomic_block:
            # Under REPEATABLE READ only a locking read sees what the insert ran into.
            rows = rows.select_for_update()
        return [Row(*row) for row in rows.annotate(now=DatabaseNow()).values_list(*Row._fields)]

    def _write(self, row: UniqueId, condition: Q) -> bool:
        values = {"nonce": row.nonce, "claimed_until": row.claimed_until, "kept_until": row.kept_until}
        return self.rows.filter(condition, digest=row.digest).update(**values) == 1
