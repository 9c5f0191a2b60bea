"""What would run a key twice is refused: an old snapshot, and a process that knows of no partitions."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from idempotency.consumers import Consumer
from idempotency.models import IdempotencyRecord
from idempotency.records.postgresql import PostgreSQLRecordStore
from idempotency.records.stores import store_class
from idempotency.responses import StoredResponse
from tests.guards import test_records
from tests.guards.contract import UnderRepeatableRead
from tests.guards.test_leases import lease_guard
from tests.guards.test_records import record_guard
from tests.project.models import Order
from tests.settings import VENDOR

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.psycopg3,
    pytest.mark.pgbouncer,
    pytest.mark.usefixtures("partitioned"),
]


def consumer_guard(delivery):
    return Consumer(lambda event: None, "event", name="c", delivery=delivery).guard("k")


GUARDS = {
    "record": record_guard,
    "lease": lease_guard,
    **{
        name: lambda name=name: consumer_guard(name)
        for name in ("transactional", "at_most_once", "at_least_once")
    },
}
EACH_GUARD = pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)


def assert_refused(guard, why):
    entered = []
    with pytest.raises(ImproperlyConfigured, match=why), guard():
        entered.append(True)
    assert not entered
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@EACH_GUARD
def test_a_claim_with_a_snapshot_that_is_older_than_its_lock_is_refused(defaults_to, guard, level):
    defaults_to(level)
    assert_refused(guard, "needs READ COMMITTED")


class TestUnderRepeatableRead(UnderRepeatableRead):
    @pytest.mark.parametrize(
        "guard", [record_guard, GUARDS["transactional"]], ids=["record", "transactional"]
    )
    def test_a_claim_in_a_transaction_is_refused(self, guard):
        assert_refused(guard, "needs READ COMMITTED")


@pytest.fixture
def defaults_to():
    """Outside of transactions too, as a server or a role may have it."""
    if VENDOR == "pgbouncer":
        pytest.skip("a pooler passes no options on")
    options = connection.settings_dict["OPTIONS"]
    before = dict(options)

    def set_level(level):
        connection.close()
        escaped = level.replace(" ", "\\ ")
        options["options"] = f"-c default_transaction_isolation={escaped}"
        options["isolation_level"] = UnderRepeatableRead.number(SimpleNamespace(level=level))

    yield set_level
    connection.close()
    options.clear()
    options.update(before)


def test_a_claim_in_a_transaction_that_asked_for_a_fixed_snapshot_is_refused():
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert_refused(record_guard, "the transaction is REPEATABLE READ")


@EACH_GUARD
def test_a_process_that_knows_of_no_partitions_is_refused(settings, guard):
    settings.IDEMPOTENCY_PARTITIONS = None
    assert_refused(guard, "IDEMPOTENCY_PARTITIONS")


def test_its_insert_is_refused_where_the_table_got_partitions_since_it_looked(settings, monkeypatch):
    settings.IDEMPOTENCY_PARTITIONS = None
    look = PostgreSQLRecordStore._lock_and_look
    monkeypatch.setattr(PostgreSQLRecordStore, "_lock_and_look", lambda store: (*look(store)[:3], False))
    with pytest.raises(ImproperlyConfigured, match="IDEMPOTENCY_PARTITIONS"), record_guard() as guard:
        Order.objects.create(reference="a")
        guard.complete(StoredResponse())
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)


def test_a_lease_that_took_up_an_expired_record_in_between_is_not_overrun():
    """It takes no lock of the key: of the two, the claim must see that it had nothing to delete."""
    test_records.complete()
    IdempotencyRecord.objects.update(expires_at="2020-01-01T00:00Z")
    guard = record_guard()
    store = store_class(connection)(connection, guard.key, guard.fingerprint, guard.retention)
    expired = store.find()
    soon = timezone.now() + timedelta(minutes=1)
    IdempotencyRecord.objects.update(state=IdempotencyRecord.State.RUNNING, fence=1, expires_at=soon)
    found = iter([expired])
    finding = store.find
    store.find = lambda: next(found, None) or finding()
    with transaction.atomic():
        assert store.claim(expired).is_leased
