"""Locks of tasks, which share a thread, and may be cancelled at any moment."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connections

from idempotency import redis
from idempotency.exceptions import LockAlreadyHeld, LockBusy, LockLost
from idempotency.locks import lock
from idempotency.locks.base import BaseLockStore, Ticket
from tests.locks.conftest import beside_postgresql
from tests.processes.gates import STUCK

pytestmark = pytest.mark.django_db(transaction=True)


def is_free(name, alias, **options):
    """Asked by a thread that is nobody's."""

    def take():
        try:
            with lock(name, alias=alias, **options):
                return True
        except LockBusy:
            return False
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result(STUCK)


class Room:
    """A task that is inside until it is told to leave."""

    def __init__(self, name, alias):
        self.lock = lock(name, alias=alias)
        self.entered, self.leaving = asyncio.Event(), asyncio.Event()

    async def __aenter__(self):
        self.task = asyncio.create_task(self.stay())
        await asyncio.wait_for(self.entered.wait(), STUCK)
        return self

    async def __aexit__(self, *exc_info):
        self.leaving.set()
        await self.task

    async def stay(self):
        async with self.lock:
            self.entered.set()
            await self.leaving.wait()


def test_it_is_held_until_the_block_is_left(name, contested):
    @async_to_sync
    async def work():
        async with lock(name, alias=contested) as held:
            assert held.name == name
            return is_free(name, contested)

    assert work() is False
    assert is_free(name, contested)


def test_two_tasks_exclude_each_other(name, contested):
    inside, most = 0, 0

    async def visit():
        nonlocal inside, most
        for _ in range(5):
            async with lock(name, alias=contested, wait=STUCK):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

    @async_to_sync
    async def work():
        await asyncio.gather(visit(), visit(), visit())

    work()
    assert most == 1
    assert is_free(name, contested)


def test_it_is_busy_for_another_task(name, contested):
    @async_to_sync
    async def work():
        async with Room(name, contested):
            for wait in (0, 0.1):
                with pytest.raises(LockBusy):
                    async with lock(name, alias=contested, wait=wait):
                        pass
            async with lock(name, alias=contested, on_busy="skip") as held:
                assert held is None

    work()


def test_a_child_task_of_the_holder_is_told_that_it_is_within(name, contested):
    async def child():
        async with lock(name, alias=contested, wait=None):
            pass

    @async_to_sync
    async def work():
        async with lock(name, alias=contested):
            with pytest.raises(LockAlreadyHeld):
                await asyncio.create_task(child())

    work()
    assert is_free(name, contested)


def test_a_task_that_outlives_its_parents_lock_may_take_its_own(name, contested):
    left = asyncio.Event()

    async def child():
        await left.wait()
        async with lock(name, alias=contested):
            return True

    @async_to_sync
    async def work():
        async with lock(name, alias=contested):
            task = asyncio.create_task(child())
        left.set()
        return await task

    assert work()


def test_one_that_is_cancelled_while_it_waits_leaves_nothing(name, contested):
    async def wait():
        async with lock(name, alias=contested, wait=None):
            raise AssertionError("it got in")

    @async_to_sync
    async def work():
        async with Room(name, contested):
            waiting = asyncio.create_task(wait())
            # Long enough to have asked.
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    work()
    assert is_free(name, contested)


def test_one_that_is_cancelled_inside_frees_it(name, contested):
    @async_to_sync
    async def work():
        async with Room(name, contested) as room:
            room.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await room.task
            room.task = asyncio.create_task(asyncio.sleep(0))

    work()
    assert is_free(name, contested)


def test_an_async_function_is_called_under_it(name, contested):
    @lock(lambda number: f"{name} {number}", alias=contested)
    async def guarded(number):
        return number, is_free(f"{name} {number}", contested)

    assert async_to_sync(guarded)(1) == (1, False)
    assert is_free(f"{name} 1", contested)


def test_its_loss_is_raised_when_the_block_is_left(name):
    @async_to_sync
    async def work():
        with pytest.raises(LockLost):
            async with lock(name, ttl=0.1, renew_for=0):
                assert is_free(name, "default", wait=5)

    work()


@beside_postgresql
@pytest.mark.parametrize("is_lost", [False, True])
def test_one_that_is_cancelled_while_it_is_given_the_lock_leaves_nothing(name, settings, is_lost):
    pytest.importorskip("django_redis", reason="django-redis is not installed")
    from tests.processes.redis_caches import redis_at, redis_behind_proxy

    minute = timedelta(minutes=1)
    medium = {"BACKEND": settings.REDIS_LOCKS, "LOCATION": "faulty", "TTL": minute}
    settings.IDEMPOTENCY_LOCKS = {"faulty": medium, "direct": {**medium, "LOCATION": "direct"}}

    async def enter():
        async with lock(name, alias="faulty"):
            raise AssertionError("it got in")

    @async_to_sync
    async def work():
        entering = asyncio.create_task(enter())
        await asyncio.to_thread(proxy.wait_until_held)
        entering.cancel()
        await asyncio.sleep(0)
        # Redis has given it the lock, and perhaps to somebody else by now, and it hears of that only now.
        if is_lost:
            key = BaseLockStore.at("direct")._keys(Ticket(name))[0]
            await asyncio.to_thread(lambda: redis.connection("direct").set(key, b"another's", px=1))
        await asyncio.to_thread(proxy.release)
        with pytest.raises(asyncio.CancelledError):
            await entering

    with redis_behind_proxy() as proxy, redis_at(settings, proxy.port):
        proxy.fault("delay-reply", at=1, only="SET")
        work()
        assert is_free(name, "direct")
