"""How a lease is come by: by a new record, an expired one's, or one that was abandoned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F

from idempotency.database import DUPLICATE_ENTRY, LATER, NOW, error_number, impatient
from idempotency.exceptions import OperationInProgress
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.leases.lease import Lease, State, is_free
from idempotency.leases.terms import Terms
from idempotency.models import OperationRun
from idempotency.records.base import IS_DONE, MICROSECOND, TABLE, Found
from idempotency.records.postgresql import PostgreSQLRecordStore
from idempotency.records.stores import store_class
from idempotency.responses import BodyState, StoredResponse
from idempotency.shards.claims import hold
from idempotency.shards.routing import slot_of

RUNS = OperationRun._meta.db_table
COLUMNS = [
    *("key_digest", "scope", "principal", "idempotency_key", "operation", "fingerprint", "state"),
    *("headers", "body_state", "fence", "slot"),
]
FIRST_FENCE = 1


class LeaseStore:
    """One operation's record on one connection, claimed by committing that it is."""

    def __init__(self, using: str, key: ScopedKey, fingerprint: Fingerprint, terms: Terms) -> None:
        self.using, self.key, self.fingerprint, self.terms = using, key, fingerprint, terms
        self.connection: BaseDatabaseWrapper = connections[using]
        self.slot = slot_of(using)
        self.lease: Lease | None = None
        self.run: OperationRun | None = None
        self._records = store_class(self.connection)(self.connection, key, fingerprint, terms.retention)
        self._now, self._later = NOW[self.connection.vendor], LATER[self.connection.vendor]

    def find(self) -> Found | None:
        return self._records.find()

    def close(self) -> None:
        """Nothing outlives a statement."""

    def complete(self, response: StoredResponse) -> bool:
        assert self.lease
        return self.lease.complete(response, self.terms.retention, has_run=self.run is not None)

    def claim(self) -> Found | None:
        """Claim a key that has no record; else say which it has.

        It is looked for first: an insert would wait for an owner that was halted in the middle of a commit,
        and on SQLite for all that others are at. Raises OperationInProgress when somebody else was faster.
        """
        in_one_statement = self.connection.vendor == "postgresql"
        # On a shard, what is in the way is answered from a slot that is frozen, too.
        if (not in_one_statement or self.slot is not None) and (found := self.find()):
            return found
        with self._claiming(is_needed=self.terms.may_go_on and not in_one_statement):
            if in_one_statement:
                self._insert_where_none_is()
            else:
                self._insert()
        if self.lease:
            return None
        if (found := self.find()) is None:  # and free again by now
            raise OperationInProgress
        return found

    @contextmanager
    def _claiming(self, *, is_needed: bool = True) -> Iterator[None]:
        """A transaction where one is needed, and on a shard, whose slot is held until it ends."""
        if not is_needed and self.slot is None:
            yield
            return
        with transaction.atomic(using=self.using):
            hold(self.using)
            yield

    def _insert_where_none_is(self) -> None:
        """In one statement, the run too: in the middle of a transaction one could be halted, and keep others
        waiting for how it ends."""
        records = self._records
        assert isinstance(records, PostgreSQLRecordStore)
        sql = (
            f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}, expires_at, created_at) "
            f"SELECT {places(COLUMNS)}, {self._later}, {self._now} "
            f"WHERE {records.insert_condition}"
            f"NOT EXISTS (SELECT FROM {TABLE} WHERE key_digest = %s AND scope = %s)"
            f"{records.insert_suffix} RETURNING id"
        )
        values = (*self._record_values, self.key.key_digest, self.key.scope)
        run = self._new_run() if self.terms.may_go_on else None
        if run:
            columns, run_values = columns_of(run, self.connection)
            sql = (
                f"WITH record AS ({sql}) INSERT INTO {RUNS} (record_id, {', '.join(columns)}) "
                f"SELECT id, {places(columns)} FROM record RETURNING record_id"
            )
            values += tuple(run_values)
        if row := records.insert_new(sql, values):
            self._hold(row[0], FIRST_FENCE)
            self.run = run

    def _insert(self) -> None:
        ignoring = "" if self.connection.vendor == "mysql" else " ON CONFLICT DO NOTHING"
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(
                    f"{impatient(self.connection)}INSERT INTO {TABLE} ({', '.join(COLUMNS)}, expires_at, "
                    f"created_at) VALUES ({places(COLUMNS)}, {self._later}, {self._now})"
                    f"{ignoring}",
                    self._record_values,
                )
            except IntegrityError as error:
                if error_number(error) != DUPLICATE_ENTRY:
                    raise
                return
            if cursor.rowcount != 1:
                return
            self._hold(int(cursor.lastrowid), FIRST_FENCE)
        self._insert_run()

    @property
    def _record_values(self) -> tuple[Any, ...]:
        key = self.key
        return (
            *(key.key_digest, key.scope, key.principal_digest, key.kept_key, key.operation[:255]),
            *(self.fingerprint.value, State.RUNNING, "", BodyState.OMITTED, FIRST_FENCE),
            self.slot,
            self.terms.lease // MICROSECOND,
        )

    def replace(self, found: Found) -> bool:
        """Claim a key whose record has expired, in place: its fence goes on counting."""
        key, record = self.key, found.record
        claim = (key.kept_key, key.operation[:255], self.fingerprint.value, State.RUNNING)
        with self._claiming():
            replaced = is_free(self.connection, record.pk) and self._execute(
                f"UPDATE {TABLE} SET idempotency_key = %s, operation = %s, fingerprint = %s, state = %s, "
                "status = NULL, headers = '', body = NULL, body_state = %s, slot = %s, fence = fence + 1, "
                f"created_at = {self._now}, expires_at = {self._later} "
                f"WHERE id = %s AND fence = %s AND {IS_DONE} AND expires_at <= {self._now}",
                *(*claim, BodyState.OMITTED, self.slot, self.terms.lease // MICROSECOND),
                *(record.pk, record.fence),
            )
            if replaced:
                self._hold(record.pk, record.fence + 1)
                self._runs(record.pk).delete()
                self._insert_run()
        return replaced

    def run_of(self, found: Found) -> OperationRun | None:
        run: OperationRun | None = self._runs(found.record.pk).first()
        return run

    def take_over(self, found: Found) -> bool:
        """Go on with what its owner has left. The journal is read once nobody else can write it."""
        record = found.record
        when = "" if record.state == State.FINISHED else f" AND expires_at <= {self._now}"
        with self._claiming():
            taken = is_free(self.connection, record.pk) and self._execute(
                f"UPDATE {TABLE} SET state = %s, fence = fence + 1, expires_at = {self._later} "
                f"WHERE id = %s AND fence = %s AND state = %s{when}",
                *(State.RUNNING, self.terms.lease // MICROSECOND, record.pk, record.fence, record.state),
            )
            if taken:
                self._runs(record.pk).update(attempts=F("attempts") + 1)
                self.run = self._runs(record.pk).get()
                self._hold(record.pk, record.fence + 1)
        return taken

    def reclaim(self, found: Found) -> bool:
        """Take up what was unknown, of which it is known by now what became."""
        record = found.record
        with self._claiming():
            taken = is_free(self.connection, record.pk) and self._execute(
                f"UPDATE {TABLE} SET state = %s, fence = fence + 1, expires_at = {self._later} "
                "WHERE id = %s AND fence = %s AND state = %s",
                *(State.RUNNING, self.terms.lease // MICROSECOND),
                *(record.pk, record.fence, State.UNKNOWN),
            )
            if taken:
                self._runs(record.pk).delete()
                self._hold(record.pk, record.fence + 1)
        return taken

    def doubt(self, found: Found) -> None:
        """What was abandoned, and may not be run again, is unknown from now on."""
        record = found.record
        with transaction.atomic(using=self.connection.alias):
            if is_free(self.connection, record.pk):
                self._execute(
                    f"UPDATE {TABLE} SET state = %s "
                    f"WHERE id = %s AND fence = %s AND state = %s AND expires_at <= {self._now}",
                    *(State.UNKNOWN, record.pk, record.fence, State.RUNNING),
                )

    def _hold(self, pk: int, fence: int) -> None:
        self.lease = Lease(self.connection.alias, pk, fence, self.terms.lease, str(self.key))

    def _insert_run(self) -> None:
        if self.terms.may_go_on and self.lease:
            self.run = self._new_run()
            self.run.record_id = self.lease.pk
            self.run.save(using=self.connection.alias, force_insert=True)

    def _new_run(self) -> OperationRun:
        kind, identifier = self.key.principal
        return OperationRun(
            name=self.terms.name or "",
            steps_digest=self.terms.digest,
            is_answer=self.terms.is_answer,
            retention=self.terms.retention,
            principal_kind=kind,
            principal_id=identifier,
        )

    def _runs(self, pk: int) -> Any:
        return OperationRun.objects.using(self.connection.alias).filter(record_id=pk)

    def _execute(self, sql: str, *values: Any) -> bool:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return bool(cursor.rowcount == 1)


def columns_of(run: OperationRun, connection: BaseDatabaseWrapper) -> tuple[list[str], list[Any]]:
    """The row but for its key, as the database takes it."""
    fields = [field for field in run._meta.local_concrete_fields if not field.primary_key]
    values = [field.get_db_prep_save(getattr(run, field.attname), connection) for field in fields]
    return [str(field.column) for field in fields], values


def places(columns: list[str]) -> str:
    return ", ".join(["%s"] * len(columns))
