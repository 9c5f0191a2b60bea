"""What a record's guard needs of a database: find, claim, complete, each one round trip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.responses import BodyState, StoredResponse

State = IdempotencyRecord.State
TABLE = IdempotencyRecord._meta.db_table
FIELDS = ("id", "fingerprint", "state", "status", "headers", "body", "body_state", "fence")
COLUMNS = ", ".join(f"{TABLE}.{name}" for name in FIELDS)
# Of a record whose operation was done, whether or not anybody was answered.
IS_DONE = f"state IN ({', '.join(f'{state:d}' for state in IdempotencyRecord.DONE)})"
MICROSECOND = timedelta(microseconds=1)


class Found(NamedTuple):
    record: IdempotencyRecord
    seconds: float
    """Until it expires; below 0 when that is over."""

    @property
    def live(self) -> bool:
        return self.seconds > 0

    @property
    def is_done(self) -> bool:
        return self.record.state in IdempotencyRecord.DONE

    @property
    def is_leased(self) -> bool:
        """Whether somebody works on it whose claim is committed."""
        return self.record.state == State.RUNNING and self.record.fence > 0 and self.live


class BaseRecordStore(ABC):
    """One operation's record on one connection.

    SQL is written out because the ORM's share of a request would be as large as the database's.
    """

    # SQL of the present, and of the present plus a placeholder's microseconds.
    now: ClassVar[str]
    later: ClassVar[str]
    # SQL of the seconds from the present until a column's time.
    seconds_until: ClassVar[str]
    insert_suffix: ClassVar[str] = ""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        key: ScopedKey,
        fingerprint: Fingerprint,
        retention: timedelta,
        slot: int | None = None,
    ) -> None:
        self.connection = connection
        self.key = key
        self.fingerprint = fingerprint
        self.retention = retention
        self.slot = slot
        # Whether the claim is a row that is completed later, not a lock.
        self.claimed_by_row = False

    @abstractmethod
    def claim(self, expired: Found | None) -> Found | None:
        """Become the only one that works on the key, until the current transaction ends.

        Returns None when claimed, or the record that is in the way: a live one, since the operation was
        completed meanwhile, or what a lease that is over has left, which is nobody's to replace here.
        ``expired`` is the expired record that was found before, which the claim replaces.
        Raises OperationInProgress without waiting for whoever has the claim.
        """

    def claim_and_complete(self, response: StoredResponse) -> bool:
        """At once, where it is known before the work what will be answered, and where no record was before.
        False where the database has no way to do so in one statement: ``claim()`` and ``complete()``."""
        return False

    def close(self) -> None:  # noqa: B027  (most mediums hold nothing)
        """Give back what outlives the transaction."""

    def find(self) -> Found | None:
        """The record, live or expired; None when there is none."""
        with self.connection.cursor() as cursor:
            cursor.execute(self.find_sql(), (self.key.key_digest, self.key.scope))
            row = cursor.fetchone()
        return None if row is None else self.found(row)

    def complete(self, response: StoredResponse) -> bool:
        """Write the outcome. False when the claim was lost: the caller must roll back."""
        if self.claimed_by_row:
            return self._complete_claimed_row(response)
        return self.insert(State.COMPLETED, response) == 1

    def insert(self, state: int, response: StoredResponse, prefix: str = "") -> int:
        key = self.key
        values = (
            *(key.key_digest, key.scope, key.principal_digest, key.kept_key, key.operation[:255]),
            *(self.fingerprint.value, state, response.status, response.headers_column),
            *(response.body, response.body_state, self.slot, self.retention // MICROSECOND),
        )
        with self.connection.cursor() as cursor:
            cursor.execute(prefix + self.insert_sql(), values)
            return int(cursor.rowcount)

    def _complete_claimed_row(self, response: StoredResponse) -> bool:
        values = (State.COMPLETED, response.status, response.headers_column, response.body)
        where = (self.key.key_digest, self.key.scope, State.RUNNING)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET state = %s, status = %s, headers = %s, body = %s, body_state = %s, "
                f"expires_at = {self.later} WHERE key_digest = %s AND scope = %s AND state = %s",
                (*values, response.body_state, self.retention // MICROSECOND, *where),
            )
            return bool(cursor.rowcount == 1)

    def delete_expired(self, record: IdempotencyRecord) -> bool:
        """Make room for the new record; a rollback brings the old one back, still expired. False when it is
        not there, or expired, any more."""
        if record.state == State.FINISHED:
            OperationRun.objects.using(self.connection.alias).filter(record=record).delete()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {TABLE} WHERE id = %s AND {IS_DONE} AND expires_at <= {self.now}", (record.pk,)
            )
            return bool(cursor.rowcount == 1)

    @classmethod
    def find_sql(cls) -> str:
        seconds = cls.seconds_until.format(column="expires_at")
        return f"SELECT {COLUMNS}, {seconds} FROM {TABLE} WHERE key_digest = %s AND scope = %s"

    @classmethod
    def insert_sql(cls) -> str:
        return (
            f"INSERT INTO {TABLE} (key_digest, scope, principal, idempotency_key, operation, fingerprint, "
            "state, status, headers, body, body_state, slot, expires_at, created_at) "
            f"VALUES ({', '.join(['%s'] * 12)}, {cls.later}, {cls.now}){cls.insert_suffix}"
        )

    def found(self, row: tuple[Any, ...]) -> Found:
        record = IdempotencyRecord.from_db(self.connection.alias, FIELDS, row[:-1])
        return Found(record, float(row[-1]))


NOTHING_YET = StoredResponse(status=None, body=None, body_state=BodyState.OMITTED)
