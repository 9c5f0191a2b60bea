from __future__ import annotations

from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured

from idempotency.database import LATER, NOW, SECONDS_UNTIL, lock_and_look
from idempotency.exceptions import WITHOUT_SETTING, OperationInProgress
from idempotency.records.base import MICROSECOND, NOTHING_YET, TABLE, BaseRecordStore, Found, State
from idempotency.responses import StoredResponse

LOCK = "SELECT set_config('idempotency.claim', pg_try_advisory_xact_lock(%s)::text, true)"
# By the key alone, which is cheaper to plan; that another scope has the same key is rare.
LOOK = (
    "SELECT current_setting('idempotency.claim'), current_setting('transaction_isolation'), "
    f"EXISTS (SELECT FROM {TABLE} WHERE key_digest = %s), "
    f"pg_get_partkeydef('{TABLE}'::regclass) IS NOT NULL"
)
# Named, so that PostgreSQL refuses it where the table has partitions, and the constraint is none over all.
ONCE = " ON CONFLICT (key_digest, scope) DO NOTHING"
CLAIM_AND_COMPLETE = (
    f"INSERT INTO {TABLE} (key_digest, scope, principal, idempotency_key, operation, fingerprint, state, "
    "headers, body, body_state, slot, expires_at, created_at) "
    f"SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {LATER['postgresql']}, {NOW['postgresql']} "
    f"WHERE pg_try_advisory_xact_lock(%s){ONCE}"
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
    insert_suffix = ONCE
    # Of the insert of a lease's record: what must hold beside that there is none.
    insert_condition: ClassVar[str] = ""
    _is_completed = False

    def claim(self, expired: Found | None) -> Found | None:
        locked, isolation, is_there, is_partitioned = self._lock_and_look()
        if is_partitioned:
            raise ImproperlyConfigured(WITHOUT_SETTING)
        if locked != "true":
            raise OperationInProgress
        found = self.find() if is_there else None
        if found and (found.live or not found.is_done):
            return found
        if found:
            self.delete_expired(found.record)
        if isolation != "read committed":
            self._insert_claim()
        return None

    def claim_and_complete(self, response: StoredResponse) -> bool:
        """The lock is asked for within the insert. It is not read whether a record is there, so no snapshot
        can be too old: where nothing is inserted, ``claim()`` finds out why."""
        key = self.key
        values = (
            *(key.key_digest, key.scope, key.principal_digest, key.kept_key, key.operation[:255]),
            *(self.fingerprint.value, State.COMPLETED, response.headers_column, response.body),
            *(response.body_state, self.slot, self.retention // MICROSECOND, key.lock_id),
        )
        with self.connection.cursor() as cursor:
            cursor.execute(CLAIM_AND_COMPLETE, values)
            self._is_completed = cursor.rowcount == 1
        return self._is_completed

    def complete(self, response: StoredResponse) -> bool:
        return self._is_completed or super().complete(response)

    def insert_new(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What the insert of a lease's record returns; None when nothing was inserted."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            row: tuple[Any, ...] | None = cursor.fetchone()
            return row

    def _lock_and_look(self) -> tuple[Any, ...]:
        row = self._after_lock(LOOK, (self.key.key_digest,))
        assert row
        return row

    def _after_lock(self, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The row of a statement that is sent together with the lock, and has a snapshot of its own."""
        return lock_and_look(self.connection, LOCK, (self.key.lock_id,), sql, values)

    @property
    def _takes_one_statement(self) -> bool:
        """The extended protocol takes one at a time."""
        return getattr(self.connection.features, "uses_server_side_binding", False)

    def _insert_claim(self) -> None:
        if self.insert(State.RUNNING, NOTHING_YET) != 1:
            raise OperationInProgress
        self.claimed_by_row = True
