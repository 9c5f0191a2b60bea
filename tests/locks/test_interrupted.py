"""Exceptions that come from elsewhere: a time limit's, which a signal's handler raises at any line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest
from django.db import connections

from idempotency import redis, renewal
from idempotency.exceptions import LockBusy
from idempotency.locks import lock
from idempotency.locks.base import BaseLockStore, Ticket
from idempotency.locks.lock import LONGEST
from tests.conftest import available
from tests.locks.conftest import beside_postgresql, wait_until
from tests.processes.gates import STUCK
from tests.processes.interruptions import TimeLimit, interrupted_after_sending, interrupted_in
from tests.project.models import Guarded

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])


def in_a_thread(call, *args):
    def run():
        try:
            return call(*args)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(STUCK)


def entered(name, alias, **options):
    try:
        with lock(name, alias=alias, **options):
            return True
    except LockBusy:
        return False


def is_free(name, alias):
    return in_a_thread(entered, name, alias)


@beside_postgresql
@pytest.mark.parametrize("alias", ["redis", "redis-cluster"])
def test_an_answer_that_was_not_read_gives_nobody_a_lock_that_is_anothers(name, alias):
    available(alias)
    with lock(name, alias=alias):
        for command in ("SET", "EVALSHA", "GET"):

            def use(command=command):
                with interrupted_after_sending(command), lock(f"{name} {command}", alias=alias) as held:
                    held.check()

            def use_and_ask(use=use):
                with pytest.raises(TimeLimit):
                    use()
                return entered(name, alias)

            assert in_a_thread(use_and_ask) is False, command
            assert is_free(f"{name} {command}", alias)


def test_one_that_is_interrupted_when_it_has_the_lock_frees_it(name, contested, monkeypatch):
    store = type(BaseLockStore.at(contested))
    acquire = store.acquire

    def acquire_and_be_stopped(*args):
        acquire(*args)
        raise TimeLimit

    with monkeypatch.context() as patch:
        patch.setattr(store, "acquire", acquire_and_be_stopped)
        with pytest.raises(TimeLimit), lock(name, alias=contested):
            raise AssertionError("it got in")
    assert is_free(name, contested)


def test_a_release_that_fails_masks_nothing_and_ends_the_renewal(name, contested, monkeypatch, caplog):
    def fail(*args):
        raise TypeError("of the release")

    with pytest.raises(LookupError), lock(name, alias=contested, ttl=1) as held:
        monkeypatch.setattr(type(held.store), "release", fail)
        raise LookupError
    monkeypatch.undo()
    assert "of the release" in caplog.text
    assert held not in renewal._renewals[f"lock {contested}"]._due
    held.store.release(held.ticket)


def test_a_renewal_that_has_died_is_begun_anew(name, contested):
    if contested == "zookeeper":
        pytest.skip("a session renews itself")
    renewals = renewal._renewals.setdefault(f"lock {contested}", renewal.Renewals())
    wait_until(lambda: renewals._thread is None or not renewals._due)
    renewals._thread, renewals._wakes_at = Thread(), float("inf")
    with lock(name, alias=contested, ttl=0.3) as held:
        asked_at = held.ticket.asked_at
        wait_until(lambda: held.ticket.asked_at > asked_at)


def test_where_no_thread_can_be_started_the_lock_is_free_again(name, contested, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setitem(renewal._renewals, f"lock {contested}", renewal.Renewals())
    with monkeypatch.context() as patch:
        # kazoo's own are there already.
        assert entered(f"{name} before", contested, renew_for=0)
        patch.setattr("idempotency.renewal.Thread.start", fail)
        with pytest.raises(RuntimeError, match="new thread"), lock(name, alias=contested):
            raise AssertionError("it got in")
    assert is_free(name, contested)


@pytest.mark.parametrize(
    "place", [("lock.py", "_enter"), ("held.py", "adopt"), ("lock.py", "_take_out"), ("steps.py", "leave")]
)
def test_nobody_renews_what_an_exception_has_taken_from_its_holder(name, contested, place):
    if contested == "zookeeper":
        pytest.skip("a session renews itself")

    def work():
        with lock(name, alias=contested, ttl=0.3):
            pass

    with interrupted_in(f"/locks/{place[0]}", place[1]), pytest.raises(TimeLimit):
        work()
    assert in_a_thread(lambda: entered(name, contested, wait=5))


@beside_postgresql
@pytest.mark.parametrize("alias", ["redis", "redis-cluster"])
def test_a_key_of_redis_that_never_expires_is_busy_and_not_asked_for_without_a_pause(name, alias):
    store = BaseLockStore.at(available(alias))
    redis.connection(store.location).set(store._keys(Ticket(name))[0], b"somebody's")
    assert not entered(name, alias, wait=0.2)
    redis.connection(store.location).delete(store._keys(Ticket(name))[0])
    assert entered(name, alias)


@pytest.mark.parametrize("option", ["ttl", "wait", "renew_for"])
def test_no_time_is_longer_than_a_year(option):
    lock("a", **{option: LONGEST})
    with pytest.raises(ValueError, match=f"{option} is a number of seconds.*31536001"):
        lock("a", **{option: LONGEST + 1})


def test_left_on_another_thread_than_entered_it_is_free(name, contested, losses):
    guard = lock(name, alias=contested)
    guard.__enter__()
    in_a_thread(guard.__exit__, None, None, None)
    assert is_free(name, contested)
    assert losses == []
    # And this context is not within it any more.
    with guard:
        pass


def test_a_block_without_the_lock_frees_nothing_when_it_is_left_elsewhere(name, contested):
    guard = lock(name, alias=contested, on_busy="skip")
    with guard as held:
        in_a_thread(guard.__enter__)
        in_a_thread(guard.__exit__, None, None, None)
        held.check()
        assert not is_free(name, contested)
    assert is_free(name, contested)


def test_a_fork_writes_nothing_with_its_parents_fence(contested, holders):
    row = Guarded.objects.create(value="nobody's")
    parent = holders.new()
    assert parent.tell("enter", name=row.lock_name(), alias=contested) is None
    assert parent.tell("read", pk=row.pk) is None
    assert parent.tell("take_fence") > 0
    child = holders.fork(parent)
    assert child.tell("reconnect") is None
    assert child.tell("save", value="child's") == "LockLost", child.says
    assert parent.tell("save", value="parent's") is None, parent.says
    row.refresh_from_db()
    assert row.value == "parent's"
