"""How a lease is come by: by a new record, an expired one's, or one that was abandoned."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F

from idempotency.database import DUPLICATE_ENTRY, LATER, NOW, error_number, impatient
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.leases.lease import Lease, State, is_free
from idempotency.leases.terms import Terms
from idempotency.models import OperationRun
from idempotency.records.base import IS_DONE, MICROSECOND, TABLE, Found
from idempotency.records.stores import store_class
from idempotency.responses import BodyState, StoredResponse

RUNS = OperationRun._meta.db_table
COLUMNS = [
    *("key_digest", "scope", "principal", "idempotency_key", "operation", "fingerprint", "state"),
    *("headers", "body_state", "fence"),
]
FIRST_FENCE = 1


class LeaseStore:
    """One operation's record on one connection, claimed by committing that it is."""

    def __init__(
        self, connection: BaseDatabaseWrapper, key: ScopedKey, fingerprint: Fingerprint, terms: Terms
    ) -> None:
        self.connection, self.key, self.fingerprint, self.terms = connection, key, fingerprint, terms
        self.lease: Lease | None = None
        self.run: OperationRun | None = None
        self._records = store_class(connection)(connection, key, fingerprint, terms.retention)
        self._now, self._later = NOW[connection.vendor], LATER[connection.vendor]

    def find(self) -> Found | None:
        return self._records.find()

    def close(self) -> None:
        """Nothing outlives a statement."""

    def complete(self, response: StoredResponse) -> bool:
        assert self.lease
        return self.lease.complete(response, self.terms.retention, has_run=self.run is not None)

    def insert(self) -> bool:
        """Claim a key that has no record, without waiting for whoever else does."""
        if self.connection.vendor == "postgresql":
            pk = self._insert_at_once()
        else:
            with transaction.atomic(using=self.connection.alias):
                pk = self._insert_in_turn()
        if pk is not None:
            self._hold(pk, FIRST_FENCE)
        return pk is not None

    def _insert_at_once(self) -> int | None:
        """Both rows by one statement: in the middle of a transaction one could be halted, and keep others
        waiting for how it ends."""
        insert = f"{self._insert_sql} ON CONFLICT DO NOTHING RETURNING id"
        values = self._record_values
        if run := self._new_run():
            columns, run_values = columns_of(run, self.connection)
            insert = (
                f"WITH record AS ({insert}) INSERT INTO {RUNS} (record_id, {', '.join(columns)}) "
                f"SELECT id, {', '.join(['%s'] * len(columns))} FROM record RETURNING record_id"
            )
            values = (*values, *run_values)
        with self.connection.cursor() as cursor:
            cursor.execute(insert, values)
            row = cursor.fetchone()
        return row[0] if row else None

    def _insert_in_turn(self) -> int | None:
        ignoring = "" if self.connection.vendor == "mysql" else " ON CONFLICT DO NOTHING"
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(
                    f"{impatient(self.connection)}{self._insert_sql}{ignoring}", self._record_values
                )
            except IntegrityError as error:
                if error_number(error) != DUPLICATE_ENTRY:
                    raise
                return None
            if cursor.rowcount != 1:
                return None
            pk = int(cursor.lastrowid)
        self._insert_run(pk)
        return pk

    @property
    def _insert_sql(self) -> str:
        places = ", ".join(["%s"] * len(COLUMNS))
        return (
            f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}, expires_at, created_at) "
            f"VALUES ({places}, {self._later}, {self._now})"
        )

    @property
    def _record_values(self) -> tuple[Any, ...]:
        key = self.key
        return (
            *(key.key_digest, key.scope, key.principal_digest, key.kept_key, key.operation[:255]),
            *(self.fingerprint.value, State.RUNNING, "", BodyState.OMITTED, FIRST_FENCE),
            self.terms.lease // MICROSECOND,
        )

    def replace(self, found: Found) -> bool:
        """Claim a key whose record has expired, in place: its fence goes on counting."""
        key, record = self.key, found.record
        claim = (key.kept_key, key.operation[:255], self.fingerprint.value, State.RUNNING, BodyState.OMITTED)
        with transaction.atomic(using=self.connection.alias):
            replaced = is_free(self.connection, record.pk) and self._execute(
                f"UPDATE {TABLE} SET idempotency_key = %s, operation = %s, fingerprint = %s, state = %s, "
                "status = NULL, headers = '', body = NULL, body_state = %s, fence = fence + 1, "
                f"created_at = {self._now}, expires_at = {self._later} "
                f"WHERE id = %s AND fence = %s AND {IS_DONE} AND expires_at <= {self._now}",
                *(*claim, self.terms.lease // MICROSECOND, record.pk, record.fence),
            )
            if replaced:
                self._hold(record.pk, record.fence + 1)
                self._runs(record.pk).delete()
                self._insert_run(record.pk)
        return replaced

    def run_of(self, found: Found) -> OperationRun | None:
        run: OperationRun | None = self._runs(found.record.pk).first()
        return run

    def take_over(self, found: Found) -> bool:
        """Go on with what its owner has left. The journal is read once nobody else can write it."""
        record = found.record
        when = "" if record.state == State.FINISHED else f" AND expires_at <= {self._now}"
        with transaction.atomic(using=self.connection.alias):
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

    def _insert_run(self, pk: int) -> None:
        if run := self._new_run():
            run.record_id = pk
            run.save(using=self.connection.alias, force_insert=True)

    def _new_run(self) -> OperationRun | None:
        if self.terms.name is None:
            return None
        kind, identifier = self.key.principal
        self.run = OperationRun(
            name=self.terms.name,
            steps_digest=self.terms.digest,
            is_answer=self.terms.is_answer,
            retention=self.terms.retention,
            principal_kind=kind,
            principal_id=identifier,
        )
        return self.run

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
