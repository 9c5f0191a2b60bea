"""The record's guard: the contract, and what it alone promises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import DatabaseError, connection, transaction

from idempotency.exceptions import (
    AlreadyCompleted,
    FingerprintMismatch,
    IdempotencyError,
    OperationInProgress,
    OutcomeUnknown,
    StoreUnavailable,
)
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.models import IdempotencyRecord
from idempotency.records import RecordGuard
from idempotency.responses import StoredResponse
from tests.guards.contract import GuardContract, UnderRepeatableRead
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
State = IdempotencyRecord.State


def record_guard(key="k", payload=b"payload", **options):
    return RecordGuard(
        ScopedKey(("user", "1"), "order", key), Fingerprint(payload), using="default", **options
    )


class TestRecordGuard(GuardContract):
    def guard(self, key):
        return record_guard(f"{key} {self.own}")

    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
    def test_another_key_gets_in_meanwhile(self):
        super().test_another_key_gets_in_meanwhile()

    @pytest.mark.skipif(connection.vendor == "sqlite", reason="on SQLite the second caller waits")
    def test_a_second_caller_is_refused_while_the_first_is_inside(self):
        super().test_a_second_caller_is_refused_while_the_first_is_inside()


@pytest.mark.skipif(connection.vendor != "mysql", reason="MySQL's way around a wait")
class TestRecordGuardWithNamedLocks(TestRecordGuard):
    """MySQL has no statement that refuses to wait; MariaDB has its named locks too."""

    @pytest.fixture(autouse=True)
    def without_set_statement(self, monkeypatch):
        monkeypatch.setattr("idempotency.records.mysql.MySQLRecordStore.impatient", "")

    def test_no_named_lock_stays_behind(self):
        self.run()
        self.run()
        with pytest.raises(LookupError):
            self.run("other", work=lambda: (_ for _ in ()).throw(LookupError()))
        self.assert_free("k", "other")

    def test_no_named_lock_stays_behind_when_the_key_is_claimed_a_second_time(self):
        """For the answer without its writes. Named locks nest: two takings want two releases."""
        with record_guard() as guard:
            guard.complete(StoredResponse(status=400, body=b"no"), keep_writes=False)
        self.assert_free("k")

    def assert_free(self, *keys):
        for key in keys:
            with connection.cursor() as cursor:
                cursor.execute("SELECT IS_FREE_LOCK(%s)", (f"idempotency:{record_guard(key).key.lock_id:x}",))
                assert cursor.fetchone() == (1,)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one isolation level")
class TestRecordGuardUnderRepeatableRead(UnderRepeatableRead, TestRecordGuard):
    pass


class TestRecordGuardUnderSerializable(TestRecordGuardUnderRepeatableRead):
    level = "serializable"


def complete(key="k", payload=b"payload", result=None):
    with record_guard(key, payload) as guard:
        guard.complete(StoredResponse.from_result(result))


def test_a_completed_operation_hands_out_its_response():
    complete(result={"total": 7})
    with pytest.raises(AlreadyCompleted) as done, record_guard():
        pass
    assert done.value.record.response.result == {"total": 7}


def test_another_payload_is_refused():
    complete()
    with pytest.raises(FingerprintMismatch), record_guard(payload=b"other"):
        pass


@pytest.mark.parametrize("expired", [False, True])
@pytest.mark.parametrize("state", [State.RUNNING, State.UNKNOWN])
def test_a_record_that_is_not_completed_is_never_run(state, expired):
    complete()
    IdempotencyRecord.objects.update(state=state)
    if expired:
        IdempotencyRecord.objects.update(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(OutcomeUnknown), record_guard():
        pass
    with pytest.raises(FingerprintMismatch), record_guard(payload=b"other"):
        pass


def test_an_abandoned_operation_keeps_nothing():
    with record_guard() as guard:
        Order.objects.create(reference="a")
        guard.abandon()
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)


def test_an_answer_without_its_writes_is_recorded():
    with record_guard() as guard:
        Order.objects.create(reference="a")
        guard.complete(StoredResponse(status=400, body=b"no"), keep_writes=False)
    assert Order.objects.count() == 0
    with pytest.raises(AlreadyCompleted) as done, record_guard():
        pass
    assert (done.value.record.status, done.value.record.response.body) == (400, b"no")


def test_who_claims_between_a_rollback_and_its_record_wins(monkeypatch):
    """The raised 4xx is recorded in a second transaction; another caller's answer may come first."""
    guard = record_guard()
    recording = guard._record_without_writes

    def overtaken(response):
        guard._leave()  # the other caller is another process
        complete(result="the other's")
        guard._nesting[0].append(guard)
        recording(response)

    monkeypatch.setattr(guard, "_record_without_writes", overtaken)
    with pytest.raises(AlreadyCompleted) as done, guard:
        guard.complete(StoredResponse(status=400, body=b"mine"), keep_writes=False)
    assert done.value.record.response.result == "the other's"
    assert IdempotencyRecord.objects.count() == 1


def test_a_record_that_appeared_in_spite_of_the_claim_rolls_everything_back():
    """The unique constraint is the last word, also against what the lock cannot see."""
    if connection.vendor == "mysql":
        pytest.skip("the claim is the row: a second one cannot appear")
    with pytest.raises(AlreadyCompleted) as done, record_guard() as guard:
        Order.objects.create(reference="a")
        insert_directly(guard, result="theirs")
    assert (Order.objects.count(), done.value.guard) == (0, guard)


def insert_directly(guard, result):
    """As another connection would, where that is possible."""
    if connection.vendor == "sqlite":
        pytest.skip("one writer at a time: nobody else can insert")
    from concurrent.futures import ThreadPoolExecutor

    from idempotency.records.postgresql import PostgreSQLRecordStore

    def insert():
        store = PostgreSQLRecordStore(connection, guard.key, guard.fingerprint, timedelta(hours=1))
        store.insert(State.COMPLETED, StoredResponse.from_result(result))
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(insert).result()


def test_a_claim_that_vanished_rolls_everything_back():
    """As after a deadlock that the handler swallowed, on a database where that ends the transaction."""
    if connection.vendor != "mysql":
        pytest.skip("the claim is a lock, which only the transaction's end frees")
    with pytest.raises(IdempotencyError) as refusal, record_guard():
        connection.connection.rollback()
        Order.objects.create(reference="after")
    assert isinstance(refusal.value, OperationInProgress)
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)


def test_a_guard_inside_a_transaction_stands_and_falls_with_it():
    with pytest.raises(LookupError), transaction.atomic():
        complete()
        raise LookupError
    assert IdempotencyRecord.objects.count() == 0
    complete()


def test_an_abandoned_guard_leaves_the_transaction_around_it_intact():
    with transaction.atomic():
        Order.objects.create(reference="around")
        with pytest.raises(LookupError), record_guard():
            Order.objects.create(reference="inside")
            raise LookupError
        complete("k2")
    assert [order.reference for order in Order.objects.all()] == ["around"]


def test_a_guard_within_a_guard_commits_with_it():
    with pytest.raises(LookupError), record_guard("outer"):
        complete("inner")
        raise LookupError
    assert IdempotencyRecord.objects.count() == 0
    with record_guard("outer"):
        complete("inner")
    assert IdempotencyRecord.objects.count() == 2


def test_a_retention_is_counted_by_the_databases_clock():
    with record_guard(retention=timedelta(hours=2)):
        pass
    record = IdempotencyRecord.objects.get()
    assert abs(record.expires_at - record.created_at - timedelta(hours=2)) < timedelta(seconds=1)
    assert IdempotencyRecord.objects.live().count() == 1
    assert IdempotencyRecord.objects.expired().count() == 0


def test_a_store_that_cannot_be_reached_is_an_outage():
    connection.close()
    settings_dict = connection.settings_dict
    before = dict(settings_dict)
    if connection.vendor == "sqlite":
        settings_dict["NAME"] = "/nonexistent/database"
    else:
        settings_dict["PORT"] = "1"
    try:
        with pytest.raises(StoreUnavailable), record_guard():
            pass
    finally:
        settings_dict.update(before)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite locks the whole database")
def test_sqlite_that_stays_locked_is_an_outage():
    from concurrent.futures import ThreadPoolExecutor

    def contend():
        connection.ensure_connection()
        connection.connection.execute("PRAGMA busy_timeout = 50")
        try:
            with pytest.raises(StoreUnavailable), record_guard("other"):
                pass
        finally:
            connection.close()
        return True

    with record_guard(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(contend).result()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
def test_a_lock_that_the_work_did_not_want_to_wait_for_is_no_conflict():
    from concurrent.futures import ThreadPoolExecutor

    order = Order.objects.create(reference="locked")
    refused = []

    def work():
        with record_guard() as guard:
            with pytest.raises(DatabaseError), transaction.atomic():
                Order.objects.select_for_update(nowait=True).get(pk=order.pk)
            refused.append(True)
            guard.complete(StoredResponse.from_result("busy"))
        connection.close()

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        Order.objects.select_for_update().get(pk=order.pk)
        pool.submit(work).result()
    assert refused == [True]
    assert IdempotencyRecord.objects.get().response.result == "busy"
