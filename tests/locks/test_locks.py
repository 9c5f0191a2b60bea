"""What a lock promises on every medium."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from django.db import connections, transaction

from idempotency.exceptions import LockAlreadyHeld, LockBusy, LockLost
from idempotency.locks import lock

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
STUCK = 30


def in_a_thread(call):
    def run():
        try:
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(STUCK)


def is_free(name, alias):
    def take():
        try:
            with lock(name, alias=alias):
                return True
        except LockBusy:
            return False

    return in_a_thread(take)


def test_it_is_busy_while_somebody_is_inside(name, medium):
    with lock(name, alias=medium) as held:
        assert not is_free(name, medium)
        assert held.name == name
    assert is_free(name, medium)


def test_names_are_apart(name, medium):
    with lock(name, alias=medium):
        assert is_free(f"{name} ", medium)
        assert is_free(name.upper(), medium)


def test_an_exception_of_the_body_passes_through_and_frees_it(name, medium):
    with pytest.raises(LookupError), lock(name, alias=medium):
        raise LookupError
    assert is_free(name, medium)


def test_it_is_not_reentrant(name, medium):
    again = lock(name, wait=None, alias=medium)
    with lock(name, alias=medium), pytest.raises(LockAlreadyHeld, match="held by this very caller"), again:
        pass
    assert is_free(name, medium)


def test_one_that_is_busy_may_be_skipped(name, medium):
    def skip():
        with lock(name, on_busy="skip", alias=medium) as held:
            return held

    with lock(name, alias=medium):
        assert in_a_thread(skip) is None
    assert in_a_thread(skip) is not None


def test_one_may_wait_for_it(name, medium):
    entered = Event()

    def wait():
        with lock(name, wait=STUCK, alias=medium):
            entered.set()

    def run():
        try:
            wait()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        with lock(name, alias=medium):
            waiting = pool.submit(run)
            assert not entered.wait(0.2)
        waiting.result(STUCK)
    assert entered.is_set()


def test_whoever_has_waited_in_vain_is_told_when_to_come_back(name, medium):
    def wait():
        with pytest.raises(LockBusy) as busy, lock(name, wait=0.1, alias=medium):
            pass
        return busy.value.retry_after

    with lock(name, alias=medium):
        assert in_a_thread(wait) >= 1
    assert is_free(name, medium)


def test_it_says_what_is_left(name, medium):
    with lock(name, ttl=20, alias=medium) as held:
        assert 0 < held.remaining <= 20
        assert not held.lost
        held.check()
    with pytest.raises(LockLost, match="left already"):
        held.check()


def test_fences_grow(name, medium):
    fences = []
    for _ in range(3):
        with lock(name, alias=medium) as held:
            fences.append(held.fence)
            assert held.fence == fences[-1]
    assert fences == sorted(set(fences))


def test_a_fence_that_was_rolled_back_is_taken_anew(name, medium):
    with lock(name, alias=medium) as held:
        with pytest.raises(LookupError), transaction.atomic():
            first = held.fence
            assert held.fence == first
            raise LookupError
        with transaction.atomic():
            second = held.fence
        assert held.fence == second


def test_a_function_is_called_under_it(name, medium):
    @lock(lambda number: f"{name} {number}", alias=medium)
    def guarded(number):
        return number, is_free(f"{name} {number}", medium)

    assert guarded(1) == (1, False)
    assert guarded(number=2) == (2, False)
