"""How a lease is come by: by a new record, an expired one's, or one that was abandoned."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F

from idempotency.database import DUPLICATE_ENTRY, LATER, NOW, error_number, impatient
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.leases.lease import Lease, State
from idempotency.leases.terms import Terms
from idempotency.models import OperationRun
from idempotency.records.base import IS_DONE, MICROSECOND, TABLE, Found
from idempotency.records.stores import store_class
from idempotency.responses import BodyState, StoredResponse

COLUMNS = (
    "key_digest, scope, principal, idempotency_key, operation, fingerprint, state, headers, body_state, fence"
)
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

    def find_before_inserting(self) -> Found | None:
        """Where an insert would wait for somebody else's work to end: SQLite has one writer at a time."""
        return self.find() if self.connection.vendor == "sqlite" else None

    def close(self) -> None:
        """Nothing outlives a statement."""

    def complete(self, response: StoredResponse) -> bool:
        assert self.lease
        return self.lease.complete(response, self.terms.retention, has_run=self.run is not None)

    def insert(self) -> bool:
        """Claim a key that has no record. Waits for nobody but for one who is about to commit."""
        if self.terms.name is None:
            return self._insert()
        with transaction.atomic(using=self.connection.alias):
            if inserted := self._insert():
                self._insert_run()
        return inserted

    def _insert(self) -> bool:
        key, vendor = self.key, self.connection.vendor
        values = (
            *(key.key_digest, key.scope, key.principal_digest, key.kept_key, key.operation[:255]),
            *(self.fingerprint.value, State.RUNNING, "", BodyState.OMITTED, FIRST_FENCE),
            self.terms.lease // MICROSECOND,
        )
        sql = (
            f"{impatient(self.connection)}INSERT INTO {TABLE} ({COLUMNS}, expires_at, created_at) "
            f"VALUES ({', '.join(['%s'] * 10)}, {self._later}, {self._now})"
        )
        sql += "" if vendor == "mysql" else " ON CONFLICT DO NOTHING"
        sql += " RETURNING id" if vendor == "postgresql" else ""
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(sql, values)
            except IntegrityError as error:
                if error_number(error) != DUPLICATE_ENTRY:
                    raise
                return False
            if cursor.rowcount != 1:
                return False
            pk = cursor.fetchone()[0] if vendor == "postgresql" else cursor.lastrowid
        self._hold(pk, FIRST_FENCE)
        return True

    def replace(self, found: Found) -> bool:
        """Claim a key whose record has expired, in place: its fence goes on counting."""
        key, record = self.key, found.record
        claim = (key.kept_key, key.operation[:255], self.fingerprint.value, State.RUNNING, BodyState.OMITTED)
        with transaction.atomic(using=self.connection.alias):
            replaced = self._execute(
                f"UPDATE {TABLE} SET idempotency_key = %s, operation = %s, fingerprint = %s, state = %s, "
                "status = NULL, headers = '', body = NULL, body_state = %s, fence = fence + 1, "
                f"created_at = {self._now}, expires_at = {self._later} "
                f"WHERE id = %s AND fence = %s AND {IS_DONE} AND expires_at <= {self._now}",
                *(*claim, self.terms.lease // MICROSECOND, record.pk, record.fence),
            )
            if replaced:
                self._hold(record.pk, record.fence + 1)
                self._runs(record.pk).delete()
                if self.terms.name is not None:
                    self._insert_run()
        return replaced

    def run_of(self, found: Found) -> OperationRun | None:
        run: OperationRun | None = self._runs(found.record.pk).first()
        return run

    def take_over(self, found: Found) -> bool:
        """Go on with what its owner has left. The journal is read once nobody else can write it."""
        record = found.record
        when = "" if record.state == State.FINISHED else f" AND expires_at <= {self._now}"
        with transaction.atomic(using=self.connection.alias):
            taken = self._execute(
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
        self._execute(
            f"UPDATE {TABLE} SET state = %s "
            f"WHERE id = %s AND fence = %s AND state = %s AND expires_at <= {self._now}",
            *(State.UNKNOWN, record.pk, record.fence, State.RUNNING),
        )

    def _hold(self, pk: int, fence: int) -> None:
        self.lease = Lease(self.connection.alias, pk, fence, self.terms.lease, str(self.key))

    def _insert_run(self) -> None:
        assert self.lease
        kind, identifier = self.key.principal
        self.run = OperationRun(
            record_id=self.lease.pk,
            name=self.terms.name or "",
            steps_digest=self.terms.digest,
            is_answer=self.terms.is_answer,
            retention=self.terms.retention,
            principal_kind=kind,
            principal_id=identifier,
        )
        self.run.save(using=self.connection.alias, force_insert=True)

    def _runs(self, pk: int) -> Any:
        return OperationRun.objects.using(self.connection.alias).filter(record_id=pk)

    def _execute(self, sql: str, *values: Any) -> bool:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return bool(cursor.rowcount == 1)
