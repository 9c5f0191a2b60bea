"""Ids that are taken back, or marked, under contention, over cut connections and after time limits."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from django.db import connection, connections, transaction

from idempotency import redis_dues
from idempotency.exceptions import OperationInProgress
from tests.processes.accidents import END_SESSION
from tests.processes.gates import STUCK
from tests.processes.interruptions import TimeLimit, interrupted_in, time_limit
from tests.project.models import Order
from tests.settings import VENDOR
from tests.unique_ids.conftest import die, run, wait_until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
not_sqlite = pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one writer at a time")
on_redis = pytest.mark.parametrize("medium", ["redis", "redis-cluster"], indirect=True)
elsewhere = pytest.mark.parametrize("medium", ["elsewhere"], indirect=True)


def in_a_thread(pool, call, *args):
    def run():
        try:
            return call(*args)
        finally:
            connections.close_all()

    return pool.submit(run)


def refused(ids, many):
    with pytest.raises(OperationInProgress):
        ids.add_many(many)
    return True


@not_sqlite
@elsewhere
def test_of_many_that_are_refused_at_once_none_is_added(made):
    ids, names = made(), [str(number) for number in range(300)]
    die(ids, "claimed")
    with ThreadPoolExecutor(4) as pool:
        attempts = [[*random.sample(names, 150), "claimed"] for _ in range(12)]
        assert all(each.result(STUCK) for each in [in_a_thread(pool, refused, ids, a) for a in attempts])
    assert not [name for name in names if name in ids]


@pytest.mark.parametrize("medium", ["default", "elsewhere"], indirect=True)
def test_a_database_needs_not_take_back_what_it_has_never_kept(made, monkeypatch):
    ids = made()
    ids.store.claim(ids.digest("claimed"), b"somebody's nonce")
    monkeypatch.setattr(type(ids.store), "give_up", lambda *arguments: None)
    assert refused(ids, ["a", "b", "claimed"])
    assert not [name for name in "ab" if name in ids]


@on_redis
def test_more_than_can_be_put_off_are_taken_back_all_the_same(made, monkeypatch):
    monkeypatch.setattr(redis_dues, "MOST_DUES", 10)
    monkeypatch.setattr(redis_dues, "TOGETHER", 20)
    ids, names = made(), [str(number) for number in range(50)]
    die(ids, "claimed")
    assert refused(ids, [*names, "claimed"])
    assert not [name for name in names if name in ids]
    assert not redis_dues._dues


def cut(alias):
    """The connection, while nothing is asked of it."""
    raw, vendor = connections[alias].connection, connections[alias].vendor
    end, count = END_SESSION[vendor]
    session = [raw.thread_id() if vendor == "mysql" else raw.info.backend_pid]
    # Within the work's transaction PostgreSQL would say the same each time.
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute(end, session)

        def is_gone():
            cursor.execute(count, session)
            return cursor.fetchone() == (0,)

        wait_until(is_gone)
    other.close()


@not_sqlite
@elsewhere
@pytest.mark.psycopg3
def test_what_is_done_is_marked_although_the_connection_was_cut_meanwhile(made):
    ids = made()
    assert run(ids, work=lambda: cut("elsewhere")) == "ran"
    assert run(ids) == "handled"
    assert Order.objects.count() == 1


@not_sqlite
@elsewhere
@pytest.mark.psycopg3
def test_what_failed_is_free_although_the_connection_was_cut_meanwhile(made):
    ids = made()

    def work():
        cut("elsewhere")
        raise LookupError

    with pytest.raises(LookupError):
        run(ids, work=work)
    assert run(ids) == "ran"


@not_sqlite
@pytest.mark.psycopg3
@pytest.mark.parametrize("medium", ["default"], indirect=True)
def test_an_addition_that_a_time_limit_ends_while_it_waits_is_not_done_afterwards(made):
    ids, added, over = made(), Event(), Event()

    def add_and_fail():
        with pytest.raises(LookupError), transaction.atomic():
            ids.add("a")
            added.set()
            # As the driver hears of a signal only when its statement has ended, this is not the test's end.
            over.wait(1)
            raise LookupError

    with ThreadPoolExecutor(1) as pool:
        first = in_a_thread(pool, add_and_fail)
        assert added.wait(STUCK)
        with time_limit(0.3), pytest.raises(TimeLimit):
            ids.add("a")
        over.set()
        first.result(STUCK)
    connection.close()
    assert "a" not in ids
    assert run(ids) == "ran"


@on_redis
def test_a_mark_that_was_interrupted_is_made_by_a_thread(made, monkeypatch):
    ids = made()
    with monkeypatch.context() as patch:
        patch.setattr(redis_dues, "_settle_one", interrupt)
        with pytest.raises(TimeLimit):
            run(ids)
    wait_until(lambda: not redis_dues._dues)
    assert "a" in ids
    assert Order.objects.count() == 1


def interrupt(*args):
    raise TimeLimit


def test_what_a_worker_does_after_a_time_limit_is_kept(made):
    ids = made()
    with interrupted_in("/idempotency/work.py", "_announce"), pytest.raises(TimeLimit):
        run(ids)
    assert run(ids, "b") == "ran"
    Order.objects.create(reference="c")
    with ThreadPoolExecutor(1) as pool:
        kept = in_a_thread(pool, lambda: sorted(Order.objects.values_list("reference", flat=True)))
        assert kept.result(STUCK) == ["b", "c"]
