"""Fences of a holder with many threads, with one name in two mediums, or with a lock that is old."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from threading import Barrier

import pytest
from django.core.management import call_command
from django.db import connection, connections, models
from django.db.models import F
from django.test.utils import isolate_apps

from idempotency.exceptions import LockLost, LockNotHeld, StaleFence
from idempotency.locks import FencedMixin, lock
from idempotency.locks.fences import take_fence
from idempotency.models import LockFence
from tests.locks.test_fenced_mixin import one_writer, repeatable_read
from tests.processes.gates import STUCK
from tests.project.models import Guarded

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
THREADS, DAY = 8, timedelta(days=1)


@pytest.fixture
def row():
    return Guarded.objects.create(value="first")


def in_threads(call):
    """What it comes to in each of several threads of this context, which begin at once."""
    barrier = Barrier(THREADS)

    def run():
        try:
            barrier.wait(STUCK)
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(copy_context().run, run) for _ in range(THREADS)]
        return [future.result(STUCK) for future in futures]


@one_writer
def test_threads_within_one_lock_have_one_fence(row):
    for _ in range(5):
        with lock(row.lock_name()) as held:
            assert set(in_threads(lambda held=held: held.fence)) == {held.fence}
            row.save()


def test_one_name_is_held_in_two_mediums_at_once(contested, settings):
    """As while a project moves from one to the other."""
    settings.IDEMPOTENCY_LOCKS = {**settings.IDEMPOTENCY_LOCKS, "moved-to": {"LOCATION": "elsewhere"}}
    row = Guarded.objects.create(value="first")
    with lock(row.lock_name(), alias=contested), lock(row.lock_name(), alias="moved-to"):
        row.value = "second"
        row.save()
    with pytest.raises(LockNotHeld):
        row.save()


def test_of_one_name_in_two_mediums_the_fence_is_one(row, settings):
    settings.IDEMPOTENCY_LOCKS = {**settings.IDEMPOTENCY_LOCKS, "moved-to": {"LOCATION": "elsewhere"}}
    with lock(row.lock_name()) as outer:
        row.save()
        with lock(row.lock_name(), alias="moved-to") as inner:
            row.save()
            assert row.fence == inner.fence == outer.fence
        row.save()


def purge_a_day_later():
    LockFence.objects.update(taken_at=F("taken_at") - DAY - timedelta(hours=1))
    call_command("purge_idempotency", verbosity=0)
    assert not LockFence.objects.exists()


def test_a_fence_that_was_purged_is_its_holders_still(row):
    with lock(row.lock_name(), renew_for=3 * DAY) as held:
        row.save()
        purge_a_day_later()
        row.value = "second"
        row.save()
        assert LockFence.objects.get().number == held.fence
    row.refresh_from_db()
    assert row.value == "second"


def test_where_the_later_holders_fence_was_purged_too_a_stale_save_is_refused(row):
    with pytest.raises(LockLost), lock(row.lock_name()) as held:
        assert held.fence < take_fence(held.ticket.digest, "default")
        held.store.release(held.ticket)
        purge_a_day_later()
        row.value = "stale"
        with pytest.raises(LockLost):
            row.save()
    row.refresh_from_db()
    assert row.value == "first"


@one_writer
@pytest.mark.parametrize("write", ["save", "delete"])
def test_what_a_later_holder_has_written_is_stale_in_a_transaction_that_sees_nothing_of_it(row, write):
    with lock(row.lock_name()) as held, ThreadPoolExecutor(1) as pool:
        assert held.fence

        def write_later():
            number = take_fence(held.ticket.digest, "default")
            Guarded.objects.filter(pk=row.pk).update(fence=number, value="later")
            connections.close_all()

        with pytest.raises(StaleFence), repeatable_read():
            mine = Guarded.objects.get(pk=row.pk)
            pool.submit(write_later).result(STUCK)
            getattr(mine, write)()
    row.refresh_from_db()
    assert row.value == "later"


@isolate_apps("tests.project")
def test_a_fence_is_its_own_rows_also_where_another_parent_has_the_key():
    class Thing(models.Model):
        thing_id = models.AutoField(primary_key=True)

        class Meta:
            app_label = "project"

    class Fenced(FencedMixin, models.Model):
        fenced_id = models.AutoField(primary_key=True)

        class Meta:
            app_label = "project"

        def lock_name(self):
            return f"fenced:{self.fenced_id}"

    class Both(Thing, Fenced):
        class Meta:
            app_label = "project"

    with connection.schema_editor() as editor:
        for model in (Thing, Fenced, Both):
            editor.create_model(model)
    try:
        another, both = Fenced.objects.create(), Both.objects.create()
        assert both.pk != both.fenced_id
        with pytest.raises(LockNotHeld):
            both.delete()
        with lock(both.lock_name()):
            both.delete()
        another.refresh_from_db()
        assert another.fence == 0
    finally:
        with connection.schema_editor() as editor:
            for model in (Both, Fenced, Thing):
                editor.delete_model(model)
