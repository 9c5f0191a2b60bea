from __future__ import annotations

from typing import Any

from idempotency.database import LATER, NOW, SECONDS_UNTIL
from idempotency.exceptions import OperationInProgress
from idempotency.records.base import NOTHING_YET, TABLE, BaseRecordStore, Found, State

LOCK = "SELECT set_config('idempotency.claim', pg_try_advisory_xact_lock(%s)::text, true)"
# By the key alone, which is cheaper to plan; that another scope has the same key is rare.
LOOK = (
    "SELECT current_setting('idempotency.claim'), current_setting('transaction_isolation'), "
    f"EXISTS (SELECT FROM {TABLE} WHERE key_digest = %s)"
)


class PostgreSQLRecordStore(BaseRecordStore):
    """The claim is an advisory lock of the transaction; the record is inserted at its end.

    A lock and a lookup in one statement would read a snapshot older than the lock, and miss a record
    that was committed between the two. They are two statements, sent together: under READ COMMITTED
    each has a snapshot of its own.

    Under REPEATABLE READ and SERIALIZABLE the snapshot is the transaction's, and only the unique
    index sees past it: there the claim inserts its row at once, and completing updates it.
    """

    now = NOW["postgresql"]
    later = LATER["postgresql"]
    seconds_until = SECONDS_UNTIL["postgresql"]
    insert_suffix = " ON CONFLICT DO NOTHING"

    def claim(self, expired: Found | None) -> Found | None:
        locked, isolation, is_there = self._lock_and_look()
        if locked != "true":
            raise OperationInProgress
        found = self.find() if is_there else None
        if found and found.live:
            return found
        if found:
            self.delete_expired(found.record)
        if isolation != "read committed":
            self._insert_claim()
        return None

    def _lock_and_look(self) -> tuple[Any, ...]:
        lock_id, digest = self.key.lock_id, self.key.key_digest
        with self.connection.cursor() as cursor:
            if getattr(self.connection.features, "uses_server_side_binding", False):
                # The extended protocol takes one statement at a time.
                cursor.execute(LOCK, (lock_id,))
                cursor.execute(LOOK, (digest,))
            else:
                cursor.execute(f"{LOCK}; {LOOK}", (lock_id, digest))
                if hasattr(cursor.cursor, "pgresult"):
                    # psycopg 3 stands on the first result, psycopg2 on the last.
                    cursor.nextset()
            row: tuple[Any, ...] = cursor.fetchone()
            return row

    def _insert_claim(self) -> None:
        if self.insert(State.RUNNING, NOTHING_YET) != 1:
            raise OperationInProgress
        self.claimed_by_row = True
