"""Each command that Redis is sent about a lock, lost or late on the way there or on the way back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest

pytest.importorskip("django_redis", reason="django-redis is not installed")

from redis import ConnectionError, TimeoutError
from redis.backoff import NoBackoff
from redis.retry import Retry

from idempotency import redis
from idempotency.exceptions import LockBusy, StoreUnavailable
from idempotency.locks import lock
from idempotency.locks.base import BaseLockStore, Ticket
from idempotency.redis import prefix
from tests.locks.conftest import beside_postgresql, wait_until
from tests.processes.gates import STUCK
from tests.processes.redis_caches import redis_at, redis_behind_proxy

pytestmark = beside_postgresql
SHORT = 0.15
RETRIES = {
    "once": {},
    "redis-py-retries": {"retry": Retry(NoBackoff(), 3), "retry_on_error": [ConnectionError, TimeoutError]},
}


@pytest.fixture
def proxy():
    with redis_behind_proxy() as proxy:
        yield proxy


@contextmanager
def locks_at(settings, proxy, **options):
    """The alias "faulty" is behind the proxy; "direct" has the same locks past it."""
    both = {
        alias: {"BACKEND": settings.REDIS_LOCKS, "LOCATION": alias, "TTL": timedelta(seconds=STUCK)}
        for alias in ("faulty", "direct")
    }
    settings.IDEMPOTENCY_LOCKS = {**settings.IDEMPOTENCY_LOCKS, **both}
    with redis_at(settings, proxy.port, **options):
        # Connected, and its scripts are known.
        with lock("warm", alias="faulty"), in_a_thread(lambda: entered("warm", "faulty")):
            pass
        proxy.clear()
        yield


@contextmanager
def in_a_thread(call):
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        yield future
        future.result(STUCK)


@pytest.fixture(params=RETRIES)
def locks(request, settings, proxy):
    with locks_at(settings, proxy, pool=RETRIES[request.param]):
        yield request.param


@pytest.fixture
def once(settings, proxy):
    with locks_at(settings, proxy):
        yield


@pytest.fixture
def impatient(settings, proxy):
    with locks_at(settings, proxy, timeout=SHORT):
        yield


def entered(name, alias, **options):
    try:
        with lock(name, alias=alias, **options):
            return True
    except LockBusy:
        return False


def is_free(name, **options):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(entered, name, "direct", **options).result(STUCK)


def keys(name):
    """What Redis has of the lock, but for who released it last, which it soon forgets."""
    found = redis.connection("direct").keys(f"{prefix('direct')}:lock:{{{Ticket(name).digest.hex()}}}*")
    return [key for key in found if not key.endswith(b":last")]


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request"])
def test_the_first_caller_gets_in_although_a_command_was_lost(locks, proxy, name, fault):
    proxy.fault(fault, at=1, only="SET")
    with lock(name, alias="faulty"):
        assert not is_free(name)
    assert is_free(name)


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request"])
def test_it_is_not_told_lost_whose_release_was_lost(locks, proxy, name, fault, losses):
    with lock(name, alias="faulty", ttl=0.3):
        proxy.fault(fault, at=1, only="EVALSHA")
    assert losses == []
    # A release that never arrived has to wait for the end of the ttl.
    assert is_free(name, wait=0 if fault == "drop-reply" or locks != "once" else 5)


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request"])
def test_a_renewal_that_was_lost_is_made_up_for(locks, proxy, name, fault, losses):
    proxy.fault(fault, at=1, only="EVALSHA")
    with lock(name, alias="faulty", ttl=0.6) as held:
        assert not is_free(name, wait=0.9)
        held.check()
    assert losses == []
    assert is_free(name)


def test_whoever_has_asked_in_vain_leaves_nothing(locks, proxy, name):
    proxy.fault("drop-reply", only="SET")
    proxy.fault("drop-reply", at=1, times=4, only="EVALSHA")
    with pytest.raises(StoreUnavailable), lock(name, alias="faulty"):
        pass
    proxy.mend()
    assert keys(name) == []


def test_whoever_asks_again_takes_nothing_from_the_one_who_got_in(locks, proxy, name, losses):
    with lock(name, alias="direct"):
        proxy.fault("drop-reply", at=1, only="SET")
        with in_a_thread(lambda: entered(name, "faulty")) as another:
            assert another.result(STUCK) is False
    assert losses == []


def test_a_late_question_leaves_no_ghost_for_longer_than_its_ttl(impatient, proxy, name):
    proxy.fault("delay-request", only="SET")
    with pytest.raises(StoreUnavailable), lock(name, alias="faulty", ttl=0.5):
        pass
    assert is_free(name)
    proxy.mend()
    proxy.release()
    assert keys(name)
    assert is_free(name, wait=5)


def test_it_is_not_entered_while_redis_is_away(once, proxy, name):
    proxy.away()
    with pytest.raises(StoreUnavailable), lock(name, alias="faulty"):
        pass
    proxy.back()
    assert keys(name) == []
    assert entered(name, "faulty")


def test_one_that_waits_while_redis_goes_away_is_told_so(once, proxy, name):
    def wait():
        with pytest.raises(StoreUnavailable):
            entered(name, "faulty", wait=STUCK)
        return True

    with lock(name, alias="direct"), in_a_thread(wait) as waiter:
        wait_until(lambda: "BLPOP" in proxy.commands)
        proxy.away()
        assert waiter.result(STUCK)
    proxy.back()
    assert entered(name, "faulty")


def test_it_is_left_quietly_while_redis_is_away(once, proxy, name, losses, caplog):
    with lock(name, alias="faulty", ttl=0.5):
        proxy.away()
    assert losses == []
    assert "not released" in caplog.text
    assert is_free(name, wait=5)


def test_the_bodys_own_exception_passes_while_redis_is_away(once, proxy, name):
    with pytest.raises(LookupError), lock(name, alias="faulty", ttl=0.5):
        proxy.away()
        raise LookupError


def test_one_that_is_released_while_it_is_renewed_is_not_lost(once, proxy, name, losses):
    with lock(name, alias="faulty", ttl=0.3):
        proxy.fault("delay-request", at=1, only="EVALSHA")
        proxy.wait_until_held()
    proxy.release()
    # The same thread renews another, so it has seen the answer by then.
    with lock(f"{name} other", alias="faulty", ttl=0.3):
        proxy.clear()
        wait_until(lambda: "EVALSHA" in proxy.commands)
    assert losses == []
    assert is_free(name)


def test_nobody_waiting_each_costs_one_round_trip(once, proxy, name):
    with lock(name, alias="faulty"):
        assert (proxy.commands, proxy.round_trips) == (["SET"], 1)
        proxy.clear()
    assert (proxy.commands, proxy.round_trips) == (["EVALSHA"], 1)


def test_whoever_waits_is_woken_by_the_release(once, proxy, name, monkeypatch):
    # Nobody comes to look by themselves.
    monkeypatch.setattr("idempotency.locks.redis.LONGEST_PAUSE", STUCK)
    with ExitStack() as holder:
        holder.enter_context(lock(name, alias="direct"))
        with in_a_thread(lambda: entered(name, "faulty", wait=STUCK)) as waiter:
            wait_until(lambda: proxy.commands[-1:] == ["BLPOP"])
            proxy.clear()
            holder.close()
            assert waiter.result(STUCK / 6)
    # Entered and left: nothing else was asked.
    assert proxy.commands == ["SET", "EVALSHA"]


def test_whoever_waits_for_a_second_asks_a_handful_of_times(once, proxy, name):
    with lock(name, alias="direct"), in_a_thread(lambda: entered(name, "faulty", wait=1)) as waiter:
        assert waiter.result(STUCK) is False
    assert len(proxy.commands) <= 12, proxy.commands
    assert proxy.commands.count("BLPOP") >= 2


def test_a_release_that_is_repeated_after_the_next_one_got_in_is_no_loss(name):
    store = BaseLockStore.at("redis")
    first, second, stranger = Ticket(name), Ticket(name), Ticket(name)
    assert store.ask(first, 30, waits=False) is None
    assert store.release(first)
    assert store.ask(second, 30, waits=False) is None
    assert store.release(first) is None
    assert store.release(stranger) is False
    assert store.holds(second)
    store.release(second)
