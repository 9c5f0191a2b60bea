from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import DatabaseError, Error, IntegrityError

from idempotency.database import (
    DUPLICATE_ENTRY,
    LATER,
    LOCK_WAIT_TIMEOUT,
    NOW,
    SECONDS_UNTIL,
    error_number,
    impatient,
)
from idempotency.exceptions import OperationInProgress
from idempotency.models import IdempotencyRecord
from idempotency.records.base import IS_DONE, MICROSECOND, NOTHING_YET, TABLE, BaseRecordStore, Found, State


class MySQLRecordStore(BaseRecordStore):
    """The claim is the row itself, inserted first and completed by an update of exactly one row.

    A deadlock that the handler swallows has rolled back everything before it, the claim too. The
    update then finds no row, which a final insert would not notice.

    A second insert would wait for the first transaction's end. MariaDB can be told not to; on MySQL
    a named lock answers in its place. It only refuses quickly: what holds is the unique index.
    """

    now = NOW["mysql"]
    later = LATER["mysql"]
    seconds_until = SECONDS_UNTIL["mysql"]
    named_lock: str | None = None

    @property
    def impatient(self) -> str:
        return impatient(self.connection)

    def claim(self, expired: Found | None) -> Found | None:
        if not self.impatient:
            self._take_named_lock()
        with self._in_progress_when_locked():
            # Before an insert: a duplicate would leave a shared lock in the way of the update.
            if expired and self._take_over(expired.record):
                return None
            found = self._insert_claim()
            if found and not found.live and self._take_over(found.record):
                return None
            return found

    def _take_over(self, record: IdempotencyRecord) -> bool:
        """Make the expired row the claim, in place. Deleting it and inserting another would lock the
        gaps beside it, and so refuse the keys of others, until the transaction ends."""
        key = self.key
        claim = (key.kept_key, key.operation[:255], self.fingerprint.value, State.RUNNING, self.slot)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"{self.impatient}UPDATE {TABLE} SET idempotency_key = %s, operation = %s, fingerprint = %s, "
                f"state = %s, fence = 0, slot = %s, created_at = {self.now}, expires_at = {self.later} "
                f"WHERE id = %s AND {IS_DONE} AND expires_at <= {self.now}",
                (*claim, self.retention // MICROSECOND, record.pk),
            )
            self.claimed_by_row = cursor.rowcount == 1
        return self.claimed_by_row

    def _insert_claim(self) -> Found | None:
        """None when inserted, else the record that was there before."""
        try:
            self.insert(State.RUNNING, NOTHING_YET, prefix=self.impatient)
        except IntegrityError as error:
            if error_number(error) != DUPLICATE_ENTRY:
                raise
        else:
            self.claimed_by_row = True
            return None
        # Under REPEATABLE READ only a locking read sees what the insert ran into.
        with self.connection.cursor() as cursor:
            sql = f"{self.impatient}{self.find_sql()} LOCK IN SHARE MODE"
            cursor.execute(sql, (self.key.key_digest, self.key.scope))
            row = cursor.fetchone()
        if row is None:  # its owner rolled back in between
            raise OperationInProgress
        return self.found(row)

    @contextmanager
    def _in_progress_when_locked(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            if error_number(error) == LOCK_WAIT_TIMEOUT:
                raise OperationInProgress from error
            raise

    def _take_named_lock(self) -> None:
        if self.named_lock is not None:
            return  # by an earlier attempt; named locks nest, and close() releases once
        name = f"idempotency:{self.key.lock_id:x}"
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, 0)", (name,))
            if cursor.fetchone() != (1,):
                raise OperationInProgress
        self.named_lock = name

    def close(self) -> None:
        if self.named_lock is None:
            return
        name, self.named_lock = self.named_lock, None
        raw = self.connection.connection
        # Past Django's cursor, which refuses in a broken transaction. A connection that is gone has
        # released the lock; a persistent one would keep it for ever.
        if raw is not None:
            with suppress(Error), self.connection.wrap_database_errors, raw.cursor() as cursor:
                cursor.execute("DO RELEASE_LOCK(%s)", (name,))
