"""One source of fences, whatever the lock's medium: a row in the database of what is guarded.

A medium's own counter would not do. A failover may wind it back at the very moment at which it gives a
lock away twice. Here a number is also never less than the time in microseconds: it grows although its
row was purged, or its database has forgotten the last second.
"""

from __future__ import annotations

from threading import Lock

from django.db import connections, transaction

from idempotency.database import NOW
from idempotency.models import LockFence
from idempotency.transactions import asked

TABLE = LockFence._meta.db_table
MICROSECONDS = {
    "postgresql": "(extract(epoch from statement_timestamp()) * 1000000)::bigint",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
}
TAKE = (
    f"INSERT INTO {TABLE} AS fence (digest, number, taken_at) "
    "SELECT %s, {microseconds}, {present}{source} ON CONFLICT (digest) DO UPDATE "
    "SET number = {greatest}(fence.number + 1, excluded.number), taken_at = excluded.taken_at "
    "RETURNING number"
)
# A lost number does no harm, so its commit need not wait for the disk. Not within a transaction, which
# is somebody else's to be careful with.
UNHURRIED = " FROM (SELECT set_config('synchronous_commit', 'off', true) AS off) AS setting WHERE off = 'off'"
TAKE_MYSQL = (
    f"INSERT INTO {TABLE} (digest, number, taken_at) VALUES (%s, {{microseconds}}, {{present}}) "
    "ON DUPLICATE KEY UPDATE number = LAST_INSERT_ID(GREATEST(number + 1, VALUES(number))), "
    "taken_at = VALUES(taken_at)"
)


def take_fence(digest: bytes, using: str) -> int:
    """The next number of the lock. Raises StoreUnavailable, or OperationInProgress for a lost conflict."""
    connection = connections[using]
    vendor = connection.vendor
    take = TAKE_MYSQL if vendor == "mysql" else TAKE
    sql = take.format(
        microseconds=MICROSECONDS[vendor],
        present=NOW[vendor],
        greatest="MAX" if vendor == "sqlite" else "GREATEST",
        source=UNHURRIED if vendor == "postgresql" and not connection.in_atomic_block else " WHERE true",
    )
    with asked(using), connection.cursor() as cursor:
        cursor.execute(sql, [digest])
        if vendor != "mysql":
            return int(cursor.fetchone()[0])
        # 2 for a row that was changed, of which the connection then knows the number.
        if cursor.rowcount != 1:
            return int(cursor.lastrowid)
        cursor.execute(f"SELECT number FROM {TABLE} WHERE digest = %s", [digest])
        return int(cursor.fetchone()[0])


class Fence:
    """A number that was taken. Within a transaction it is so until that is rolled back: somebody else may
    then be given the same."""

    def __init__(self, number: int, using: str) -> None:
        self.number, self._using = number, using
        self._is_committed = not connections[using].in_atomic_block
        if not self._is_committed:
            transaction.on_commit(self._note_commit, using=using)

    @property
    def stands(self) -> bool:
        # Django forgets the hooks of what is rolled back.
        hooks = connections[self._using].run_on_commit
        return self._is_committed or any(hook[1] == self._note_commit for hook in hooks)

    def _note_commit(self) -> None:
        self._is_committed = True


class Fences:
    """Those that a holder has taken, by the database's alias. Its threads take one, and not each its own."""

    def __init__(self) -> None:
        self.known: dict[str, Fence] = {}
        self.mutex = Lock()
