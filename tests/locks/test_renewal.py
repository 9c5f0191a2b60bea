"""Work that takes longer than its lock's ttl, and locks that are lost meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from idempotency import redis
from idempotency.exceptions import LockBusy, LockLost
from idempotency.locks import lock
from idempotency.models import LockLease
from tests.locks.conftest import shortest_ttl, wait_until
from tests.processes.gates import STUCK

HOUR = timedelta(hours=1)
pytestmark = pytest.mark.django_db(transaction=True)
TTL = 0.3
SLACK = 2.0


@contextmanager
def another(name, alias, **options):
    """Somebody else, in a thread: its future tells in how many seconds it got in, or None."""

    def wait():
        began = time.monotonic()
        try:
            with lock(name, alias=alias, **options):
                return time.monotonic() - began
        except LockBusy:
            return None
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait)


def delete(held):
    """As somebody does it who is none of its holders."""
    ticket = held.ticket
    if held.store.database:
        assert LockLease.objects.filter(digest=ticket.digest).delete()[0] == 1
    elif held.store.renews_itself:
        ticket.medium.session.client.delete(ticket.medium.node)
    else:
        assert redis.connection(held.store.location).delete(ticket.medium[0]) == 1


def give_away(held):
    """To somebody else, before the holder hears of it."""
    ticket = held.ticket
    if held.store.database:
        LockLease.objects.filter(digest=ticket.digest).update(owner=b"another's")
    else:
        redis.connection(held.store.location).set(ticket.medium[0], b"another's", px=STUCK * 1000)


def test_it_is_kept_while_the_work_goes_on(name, contested, losses):
    with lock(name, alias=contested, ttl=TTL) as held, another(name, contested, wait=1) as waiter:
        assert waiter.result(STUCK) is None
        held.check()
    assert losses == []
    with another(name, contested) as late:
        assert late.result(STUCK) is not None


def test_it_is_kept_for_no_longer_than_it_is_to_be_renewed(name, contested, losses):
    with (
        pytest.raises(LockLost),
        lock(name, alias=contested, ttl=TTL, renew_for=0.6) as held,
        another(name, contested, wait=STUCK) as waiter,
    ):
        assert 0.5 < waiter.result(STUCK) < 0.6 + TTL + SLACK
        wait_until(lambda: held.lost)
    wait_until(lambda: losses == [name])


@pytest.mark.parametrize("said_by", ["caller", "alias"])
def test_it_need_not_be_renewed_at_all(name, contested, settings, said_by):
    if contested == "zookeeper":
        pytest.skip("a session renews itself")
    never = {**settings.IDEMPOTENCY_LOCKS.get(contested, {}), "RENEW_FOR": timedelta(0)}
    if said_by == "alias":
        settings.IDEMPOTENCY_LOCKS = {**settings.IDEMPOTENCY_LOCKS, contested: never}
    with (
        pytest.raises(LockLost),
        lock(name, alias=contested, ttl=TTL, renew_for=0 if said_by == "caller" else None) as held,
        another(name, contested, wait=STUCK) as waiter,
    ):
        assert waiter.result(STUCK) < TTL + SLACK
        assert held.lost


def test_whoever_loses_it_is_told_at_once_by_the_renewal(name, contested, losses):
    with pytest.raises(LockLost), lock(name, alias=contested, ttl=1) as held:
        delete(held)
        asked_at = held.ticket.asked_at
        wait_until(lambda: held.lost)
        # Known before its own time would have been over.
        assert time.clock_gettime(time.CLOCK_BOOTTIME) < asked_at + 1
        with pytest.raises(LockLost):
            held.check()
    wait_until(lambda: losses == [name])


def test_whoever_asks_is_told_that_it_is_lost(name, contested, losses):
    with pytest.raises(LockLost), lock(name, alias=contested, renew_for=0) as held:
        delete(held)
        assert not held.lost
        for _ in range(2):
            with pytest.raises(LockLost):
                held.check()
        assert held.lost
    assert losses == [name]


def test_what_is_another_s_is_neither_renewed_nor_released(name, contested, losses):
    if contested == "zookeeper":
        pytest.skip("a node has one owner for as long as it is there")
    with pytest.raises(LockLost), lock(name, alias=contested, ttl=1) as held:
        give_away(held)
        wait_until(lambda: held.lost)
    wait_until(lambda: losses == [name])
    with another(name, contested) as late:
        assert late.result(STUCK) is None


def test_another_s_lock_is_not_released_by_whoever_knew_nothing_of_it(name, contested, losses):
    if contested == "zookeeper":
        pytest.skip("a node has one owner for as long as it is there")
    with pytest.raises(LockLost), lock(name, alias=contested, renew_for=0) as held:
        give_away(held)
        assert not held.lost
    assert losses == [name]
    with another(name, contested) as late:
        assert late.result(STUCK) is None


def test_a_loss_does_not_mask_the_bodys_own_exception(name, contested):
    with pytest.raises(LookupError), lock(name, alias=contested, renew_for=0) as held:
        delete(held)
        raise LookupError


def test_a_fork_neither_renews_nor_releases_what_is_its_parents(name, contested, holders):
    ttl = shortest_ttl(contested)
    configuration = {"locks": {contested: {"TTL": ttl}}}
    parent, rival = (holders.new(**configuration) for _ in range(2))
    assert parent.tell("enter", name=name, alias=contested) is None
    child = holders.fork(parent)
    assert child.tell("is_lost") is True
    assert child.tell("leave") == "LockLost", child.says
    assert rival.tell("enter", name=name, alias=contested) == "LockBusy", rival.says
    assert parent.tell("check") is None
    parent.kill()
    assert rival.tell("enter", name=name, alias=contested, wait=ttl + SLACK) is None, rival.says
    assert child.tell("is_lost") is True


def test_a_fork_renews_what_is_its_own(name, contested, holders):
    if contested == "zookeeper":
        pytest.skip("a session renews itself, and does not survive a fork")
    parent, rival = holders.new(), holders.new()
    assert parent.tell("enter", name=f"{name} parent", alias=contested, ttl=TTL) is None
    child = holders.fork(parent)
    assert child.tell("reconnect") is None
    assert child.tell("enter", name=name, alias=contested, ttl=TTL) is None, child.says
    assert rival.tell("enter", name=name, alias=contested, wait=3 * TTL) == "LockBusy", rival.says
    assert child.tell("check") is None
    assert parent.tell("check") is None


def test_the_databases_clock_decides_when_its_time_is_over(name):
    with pytest.raises(LockLost), lock(name, renew_for=0) as held:
        LockLease.objects.filter(digest=held.ticket.digest).update(expires_at=timezone.now() - HOUR)
        assert held.remaining > 0
        with pytest.raises(LockLost):
            held.check()
