"""Redis away, halted, or unable to write; and what is let pass then."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from idempotency import redis_dues
from idempotency.exceptions import StoreUnavailable
from idempotency.signals import failed_open
from idempotency.unique_ids import unique_ids
from tests.conftest import beside_postgresql
from tests.processes.redis_caches import redis_at, require_redis
from tests.processes.redis_server import RedisServer
from tests.project.models import Order
from tests.unique_ids.conftest import run, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    beside_postgresql,
]
SHORT = 0.3


@pytest.fixture
def options():
    return {}


def set_up(settings, **options):
    store = {"BACKEND": settings.REDIS_UNIQUE_IDS, "LOCATION": "faulty", **options}
    settings.IDEMPOTENCY_UNIQUE_IDS = {"default": store}


@pytest.fixture
def ids(proxy, settings, options):
    set_up(settings, **options)
    with redis_at(settings, proxy.port):
        yield unique_ids()


@pytest.fixture
def server():
    require_redis()
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_ids(server, settings):
    """In the Redis that the test may do anything to."""
    set_up(settings)
    with redis_at(settings, server.port, timeout=SHORT):
        yield unique_ids()


@pytest.fixture
def failures():
    sent = []

    def receive(**kwargs):
        sent.append((kwargs["mechanism"], kwargs["key"] and kwargs["key"].key, kwargs["error"].code))

    failed_open.connect(receive)
    yield sent
    failed_open.disconnect(receive)


fails_open = pytest.mark.parametrize("options", [{"FAIL_OPEN": True}])


def test_while_redis_is_away_nothing_runs_and_nothing_is_known(proxy, ids):
    proxy.away()
    for use in (
        lambda: run(ids),
        lambda: ids.add("a"),
        lambda: ids.add_many(list("ab")),
        lambda: ids.discard("a"),
        lambda: "a" in ids,
    ):
        with pytest.raises(StoreUnavailable):
            use()
    proxy.back()
    assert not Order.objects.exists()
    assert [run(ids), run(ids), ids.add("b")] == ["ran", "handled", True]


def test_what_is_done_counts_as_handled_when_redis_is_back(proxy, ids):
    assert run(ids, work=proxy.away) == "ran"
    proxy.back()
    wait_until(lambda: not redis_dues._dues)
    assert "a" in ids
    assert Order.objects.count() == 1


def test_what_failed_may_be_handled_when_redis_is_back(proxy, ids):
    def work():
        proxy.away()
        raise LookupError

    with pytest.raises(LookupError):
        run(ids, work=work)
    assert not Order.objects.exists()
    proxy.back()
    assert [run(ids), run(ids)] == ["ran", "handled"]


@pytest.mark.parametrize("options", [{"CLAIM": timedelta(milliseconds=100)}])
def test_work_whose_claim_cannot_be_confirmed_is_rolled_back(proxy, ids):
    def work():
        end = time.monotonic() + 0.06
        wait_until(lambda: time.monotonic() > end)
        proxy.away()

    with pytest.raises(StoreUnavailable):
        run(ids, work=work)
    assert not Order.objects.exists()
    proxy.back()
    assert [run(ids), run(ids)] == ["ran", "handled"]


@pytest.mark.parametrize("options", [{"CLAIM": timedelta(seconds=90), "ON_UNKNOWN": "discard"}])
def test_a_process_that_ends_before_redis_is_back_leaves_the_id_claimed(proxy, ids):
    run(ids, work=proxy.away)
    redis_dues._dues.clear()
    proxy.back()
    assert 80 < run(ids).retry_after <= 90


def test_a_halted_redis_is_waited_for_as_long_as_its_timeouts_say(server, own_ids):
    assert own_ids.add("warm")
    server.halt()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        own_ids.add("a")
    assert time.monotonic() - began < 3 * SHORT + 1
    server.go_on()
    # Whatever of it arrives now.
    wait_until(lambda: not redis_dues._dues)
    assert [own_ids.add("a"), own_ids.add("a")] == [True, False]


def test_many_wait_for_a_halted_redis_no_longer_than_one(server, own_ids):
    assert own_ids.add("warm")
    server.halt()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        own_ids.add_many(list("abcdefghijkl"))
    server.go_on()
    assert time.monotonic() - began < 3 * SHORT + 1


def test_a_redis_that_cannot_write_is_away(server, own_ids):
    server.ask("CONFIG SET min-replicas-to-write 1")
    for use in (lambda: own_ids.add("a"), lambda: own_ids.add_many(list("ab")), lambda: run(own_ids)):
        with pytest.raises(StoreUnavailable):
            use()
    server.ask("CONFIG SET min-replicas-to-write 0")
    assert own_ids.add_many(list("ab")) == [True, True]


def test_scripts_that_redis_has_forgotten_in_between_are_sent_again(server, own_ids):
    def forget():
        server.ask("SCRIPT FLUSH")

    assert own_ids.add("a")
    forget()
    assert own_ids.add_many(list("ab")) == [False, True]
    assert run(own_ids, "c", work=forget) == "ran"
    forget()
    own_ids.discard("a")
    forget()
    assert [id in own_ids for id in "abc"] == [False, True, True]


@fails_open
def test_failing_open_the_work_runs_and_is_reported(proxy, ids, failures):
    proxy.away()
    assert [run(ids), run(ids)] == ["ran", "ran"]
    assert failures == [("unique-id", "a", "store-unavailable")] * 2
    proxy.back()
    assert [run(ids), run(ids)] == ["ran", "handled"]
    assert len(failures) == 2


@fails_open
def test_failing_open_ids_count_as_new_and_that_is_reported(proxy, ids, failures):
    proxy.away()
    assert "a" not in ids
    assert ids.add("a")
    assert ids.add_many(list("aba")) == [True, True, False]
    assert [(mechanism, code) for mechanism, _, code in failures] == [("unique-id", "store-unavailable")] * 3
    proxy.back()
    wait_until(lambda: not redis_dues._dues)
    assert [ids.add("a"), ids.add("a")] == [True, False]


@fails_open
def test_failing_open_a_failure_still_rolls_back(proxy, ids, failures):
    proxy.away()

    def work():
        raise LookupError

    with pytest.raises(LookupError):
        run(ids, work=work)
    assert not Order.objects.exists()


def test_by_default_nothing_runs_without_its_store(proxy, ids, failures):
    proxy.away()
    with pytest.raises(StoreUnavailable):
        run(ids)
    assert not failures
