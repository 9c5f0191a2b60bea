"""Rows that carry the fence of the lock that guards them. Whole holders that are halted are elsewhere."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.core import serializers
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, models, transaction
from django.test.utils import isolate_apps

from idempotency.exceptions import LockNotHeld, OperationInProgress, StaleFence
from idempotency.locks import FencedMixin, lock
from idempotency.locks.fences import take_fence
from idempotency.locks.held import adopt
from idempotency.models import LockFence
from tests.processes.gates import STUCK
from tests.project.models import Guarded
from tests.settings import VENDOR

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]


@pytest.fixture
def row():
    return Guarded.objects.create(value="first")


def overtake(held):
    """What a later holder's fence is."""
    return take_fence(held.ticket.digest, "default")


def value_of(row):
    return Guarded.objects.get(pk=row.pk).value


def test_a_save_carries_the_fence(row):
    with lock(row.lock_name()) as held:
        row.value = "second"
        row.save()
    stored = Guarded.objects.get(pk=row.pk)
    assert (stored.value, stored.fence) == ("second", row.fence)
    assert row.fence == LockFence.objects.get(digest=held.ticket.digest).number


def test_so_does_one_of_some_fields_and_one_of_none(row):
    with lock(row.lock_name()) as held:
        row.save(update_fields=["value"])
        assert Guarded.objects.get(pk=row.pk).fence == held.fence
        row.save(update_fields=[])


def test_it_is_saved_as_often_as_one_likes_under_one_lock(row):
    with lock(row.lock_name()):
        for value in ("second", "third"):
            row.value = value
            row.save()
    assert value_of(row) == "third"


def test_once_a_later_holder_has_written_a_save_is_refused_and_rolls_back(row):
    with lock(row.lock_name()) as held:
        number = held.fence
        Guarded.objects.filter(pk=row.pk).update(fence=number + 1, value="later")
        with pytest.raises(StaleFence), transaction.atomic():
            Guarded.objects.create(value="beside it")
            row.value = "stale"
            row.save()
    assert [stored.value for stored in Guarded.objects.all()] == ["later"]


def test_once_a_later_holder_has_taken_a_fence_a_save_is_refused(row):
    with lock(row.lock_name()) as held:
        assert held.fence < overtake(held)
        row.value = "stale"
        with pytest.raises(StaleFence):
            row.save()
    assert value_of(row) == "first"


def test_a_refusal_that_is_swallowed_within_a_transaction_keeps_nothing(row):
    with lock(row.lock_name()) as held:
        assert held.fence < overtake(held)
        with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
            with pytest.raises(StaleFence):
                row.save()
            Guarded.objects.create(value="after it")
    assert Guarded.objects.count() == 1


def test_a_stale_deletion_is_refused_and_a_rightful_one_is_done(row):
    with lock(row.lock_name()) as held:
        assert held.fence < overtake(held)
        with pytest.raises(StaleFence):
            row.delete()
    assert value_of(row) == "first"
    with lock(row.lock_name()):
        row.delete()
    assert not Guarded.objects.exists()


def test_outside_of_its_lock_it_is_neither_saved_nor_deleted(row):
    for write in (row.save, row.delete):
        with pytest.raises(LockNotHeld, match=f"guarded:{row.pk}"):
            write()
        with lock("another"), pytest.raises(LockNotHeld):
            write()
    with lock(row.lock_name()):
        pass
    with pytest.raises(LockNotHeld):
        row.save()
    assert value_of(row) == "first"


def test_an_instance_that_only_names_an_existing_row_is_no_way_around_it(row):
    with pytest.raises(LockNotHeld):
        Guarded(pk=row.pk, value="stale").save()
    assert value_of(row) == "first"


def test_new_rows_and_fixtures_need_no_lock(row):
    Guarded(pk=row.pk + 1, value="new").save()
    Guarded.objects.create(pk=row.pk + 2, value="new")
    (fixture,) = serializers.deserialize("json", serializers.serialize("json", [row]))
    fixture.object.value = "loaded"
    fixture.save()
    assert value_of(row) == "loaded"


def test_a_row_that_is_gone_is_not_stale(row):
    with lock(row.lock_name()):
        Guarded.objects.filter(pk=row.pk).delete()
        with pytest.raises(DatabaseError, match="did not affect any rows"):
            row.save(force_update=True)


def test_a_refused_write_is_a_conflict_to_whoever_asked_for_it():
    assert issubclass(StaleFence, OperationInProgress)


@isolate_apps("tests.project")
def test_a_model_must_say_which_lock_it_is():
    class Nameless(FencedMixin, models.Model):
        class Meta:
            app_label = "project"

    with pytest.raises(ImproperlyConfigured, match=r"lock_name\(\)"):
        Nameless(pk=1).lock_name()


one_writer = pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one writer at a time")


@one_writer
def test_a_stale_save_is_refused_in_a_transaction_that_sees_nothing_of_the_later_holder(row):
    with lock(row.lock_name()) as held, ThreadPoolExecutor(1) as pool:
        number = held.fence
        with pytest.raises(StaleFence), repeatable_read():
            mine = Guarded.objects.get(pk=row.pk)
            assert in_a_thread(pool, overtake, held).result(STUCK) > number
            mine.value = "stale"
            mine.save()
    assert value_of(row) == "first"


@one_writer
def test_a_later_holder_gets_its_fence_when_the_earlier_ones_write_has_ended(row):
    with lock(row.lock_name()) as held, ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            row.value = "second"
            row.save()
            later = in_a_thread(pool, overtake, held)
            wait_until_blocked(later)
            assert not later.done()
        assert later.result(STUCK) > row.fence
    assert value_of(row) == "second"


@contextmanager
def repeatable_read():
    connection = connections["default"]
    isolation = "ISOLATION LEVEL REPEATABLE READ"
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute(f"SET TRANSACTION {isolation}")
        with transaction.atomic():
            if connection.vendor == "postgresql":
                cursor.execute(f"SET TRANSACTION {isolation}")
            yield


def in_a_thread(pool, call, *args):
    def run():
        try:
            return call(*args)
        finally:
            connections.close_all()

    return pool.submit(run)


@one_writer
def test_a_save_waits_for_whoever_is_writing_and_then_compares_fences_anew(row):
    with lock(row.lock_name()) as held, ThreadPoolExecutor(1) as pool:
        number = held.fence
        other = connections["default"].copy()
        other.set_autocommit(False)
        with other.cursor() as cursor:
            table = Guarded._meta.db_table
            cursor.execute(f"UPDATE {table} SET fence = %s, value = 'later'", [number + 1])
        refused = in_a_thread(pool, saved_under, held, row)
        wait_until_blocked(refused)
        other.commit()
        other.close()
        assert isinstance(refused.result(STUCK), StaleFence)
    assert value_of(row) == "later"


def saved_under(held, row):
    adopt(held)
    try:
        row.value = "stale"
        row.save()
    except OperationInProgress as error:
        return error


BLOCKED = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


def wait_until_blocked(refused):
    with connections["default"].cursor() as cursor:
        while not refused.done():
            cursor.execute(BLOCKED[connections["default"].vendor])
            if cursor.fetchone()[0]:
                return
            # InnoDB looks again only when nobody has for a tenth of a second.
            time.sleep(0.15)
