from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from idempotency.exceptions import OperationInProgress
from idempotency.records.base import Found
from idempotency.records.postgresql import PostgreSQLRecordStore
from idempotency.responses import StoredResponse

READ_COMMITTED = "read committed"
OLD_SNAPSHOT = (
    "IDEMPOTENCY_PARTITIONS needs READ COMMITTED, and the transaction is {}: it would not see what was "
    "committed before it had the key's lock, and no unique index reaches over all partitions. Leave "
    '"isolation_level" out of the OPTIONS of this database, or do without partitions.'
)


class PartitionedRecordStore(PostgreSQLRecordStore):
    """Of a table with partitions, whose unique index is one per partition: a key's record may be in any.

    Who inserts has the key's lock and has looked for it, in a snapshot that is younger than the lock. Nothing
    else keeps a key from being done twice. It is as good for a table that has no partitions yet.
    """

    insert_suffix = " ON CONFLICT DO NOTHING"
    insert_condition = (
        "current_setting('idempotency.claim') = 'true' "
        f"AND current_setting('transaction_isolation') = '{READ_COMMITTED}' AND "
    )

    def claim(self, expired: Found | None) -> Found | None:
        locked, isolation, is_there, _ = self._lock_and_look()
        require_read_committed(isolation)
        if locked != "true":
            raise OperationInProgress
        found = self.find() if is_there else None
        while found:
            if found.live or not found.is_done:
                return found
            # A lease may have taken it up in place meanwhile, without the lock.
            if self.delete_expired(found.record):
                break
            found = self.find()
        return None

    def claim_and_complete(self, response: StoredResponse) -> bool:
        """One statement has one snapshot, which is older than its lock."""
        return False

    def insert_new(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # What is sent together is one transaction by itself.
        alone = self._takes_one_statement
        with transaction.atomic(using=self.connection.alias) if alone else nullcontext():
            row = self._after_lock(sql, values)
        if row is None:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('transaction_isolation')")
                require_read_committed(cursor.fetchone()[0])
        return row


def require_read_committed(isolation: str) -> None:
    if isolation != READ_COMMITTED:
        raise ImproperlyConfigured(OLD_SNAPSHOT.format(isolation.upper()))
