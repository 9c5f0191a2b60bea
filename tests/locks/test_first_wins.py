"""The first wins, the rest are discarded: a lock, and a mark that outlives it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction

from idempotency.decorators import idempotent
from idempotency.exceptions import LockBusy, LockLost
from idempotency.locks import first_wins, lock
from idempotency.locks import held as locks
from idempotency.unique_ids import unique_ids
from tests.conftest import available
from tests.locks.conftest import beside_postgresql
from tests.processes.gates import STUCK
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])]


def settlement(name, medium, work=lambda: None, **options):
    @idempotent(guard=first_wins(alias=medium, **options), key="day", operation=name)
    def settle(day):
        Order.objects.create(reference=day)
        work()
        return "settled"

    return settle


def in_a_thread(call, *args):
    def run():
        try:
            return call(*args)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(STUCK)


def test_a_late_duplicate_is_skipped_although_the_lock_is_free(name, medium):
    settle = settlement(name, medium)
    assert [settle("monday"), settle("monday"), settle("tuesday")] == ["settled", None, "settled"]
    assert Order.objects.count() == 2


def test_a_lock_alone_lets_a_late_duplicate_run(name, medium):
    @lock(name, alias=medium)
    def settle():
        Order.objects.create(reference="monday")

    settle()
    settle()
    assert Order.objects.count() == 2


@pytest.mark.parametrize("on_busy", ["raise", "skip"])
def test_whoever_comes_meanwhile_is_refused_or_skipped(name, medium, on_busy):
    inside, enough = Event(), Event()

    def work():
        inside.set()
        assert enough.wait(STUCK)

    settle = settlement(name, medium, work, on_busy=on_busy)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: (settle("monday"), connections.close_all())[0])
        assert inside.wait(STUCK)
        try:
            if on_busy == "skip":
                assert settle("monday") is None
            else:
                with pytest.raises(LockBusy):
                    settle("monday")
        finally:
            enough.set()
        assert first.result(STUCK) == "settled"
    assert Order.objects.count() == 1


def test_when_the_first_fails_the_next_one_runs(name, medium):
    failures = [LookupError("the first one's")]

    def work():
        if failures:
            raise failures.pop()

    settle = settlement(name, medium, work)
    with pytest.raises(LookupError):
        settle("monday")
    assert settle("monday") == "settled"
    assert Order.objects.count() == 1


def test_work_whose_lock_was_lost_is_rolled_back_and_may_run_again(name, medium):
    lose = [True]

    def work():
        if lose.pop():
            locks.mine()[0].lose()

    settle = settlement(name, medium, work)
    with pytest.raises(LockLost):
        settle("monday")
    lose.append(False)
    assert not Order.objects.exists()
    assert settle("monday") == "settled"
    assert Order.objects.count() == 1


def test_the_done_mark_may_be_elsewhere(name):
    elsewhere = unique_ids("elsewhere", name)
    settle = settlement(name, "default", done=elsewhere)
    assert [settle("monday"), settle("monday")] == ["settled", None]


def test_its_lock_is_free_when_it_was_done_before(name, medium):
    settle = settlement(name, medium)
    settle("monday")
    for _ in range(3):
        assert settle("monday") is None
    assert in_a_thread(settle, "monday") is None


def test_the_signals_name_the_operation(name, announced):
    settle = settlement(name, "default")
    settle("monday")
    settle("monday")
    told = [(event, code) for event, _, key, code in announced if key.operation == name]
    assert told == [("claimed", None), ("completed", None), ("refused", "duplicate")]


def test_a_coroutine_is_guarded_as_well(name):
    @idempotent(guard=first_wins(), key="day", operation=name)
    async def settle(day):
        await Order.objects.acreate(reference=day)
        return "settled"

    @async_to_sync
    async def twice():
        return [await settle("monday"), await settle("monday")]

    assert twice() == ["settled", None]
    assert Order.objects.count() == 1


@beside_postgresql
@pytest.mark.parametrize("wait", [None, STUCK])
def test_a_task_that_waits_keeps_nobody_from_the_thread_that_they_share(name, wait):
    available("redis")
    inside = asyncio.Event()

    # Where its transaction does not stay open while others have their turn.
    @idempotent(guard=first_wins(alias="redis", wait=wait), key="day", operation=name)
    async def settle(day):
        inside.set()
        await asyncio.sleep(0.1)
        await Order.objects.acreate(reference=day)
        return "settled"

    async def late():
        await inside.wait()
        return await settle("monday")

    @async_to_sync
    async def both():
        return await asyncio.wait_for(asyncio.gather(settle("monday"), late()), STUCK)

    assert both() == ["settled", None]
    assert Order.objects.count() == 1


@beside_postgresql
def test_a_task_that_waits_is_skipped_only_when_it_has_waited(name):
    available("redis")
    inside = asyncio.Event()

    @idempotent(guard=first_wins(alias="redis", wait=STUCK, on_busy="skip"), key="day", operation=name)
    async def settle(day, fail):
        inside.set()
        await asyncio.sleep(0.1)
        if fail:
            raise LookupError
        return "settled"

    async def late():
        await inside.wait()
        return await settle("monday", False)

    @async_to_sync
    async def both():
        return await asyncio.gather(settle("monday", True), late(), return_exceptions=True)

    failed, second = both()
    assert isinstance(failed, LookupError)
    assert second == "settled"


@beside_postgresql
def test_a_task_that_has_waited_in_vain_is_skipped(name):
    available("redis")

    inside, leave = asyncio.Event(), asyncio.Event()

    @idempotent(guard=first_wins(alias="redis", wait=0.1, on_busy="skip"), key="day", operation=name)
    async def hold(day):
        inside.set()
        await leave.wait()
        return "settled"

    async def late():
        await inside.wait()
        try:
            return await hold("tuesday")
        finally:
            leave.set()

    @async_to_sync
    async def both():
        return await asyncio.gather(hold("tuesday"), late())

    assert both() == ["settled", None]


@pytest.mark.parametrize("guarded", ["lock", "first_wins"])
def test_work_whose_transaction_outlasts_the_ttl_keeps_its_lock(name, guarded, losses):
    """On SQLite too, where the transaction keeps the renewal from writing."""

    def work():
        Order.objects.create(reference="monday")
        time.sleep(0.7)

    if guarded == "first_wins":
        idempotent(guard=first_wins(ttl=0.2), key=lambda: "monday", operation=name)(work)()
    else:
        with lock(name, ttl=0.2), transaction.atomic():
            work()
    assert Order.objects.count() == 1
    assert not losses
