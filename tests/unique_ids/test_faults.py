"""Each command that Redis is sent about an id, lost or late; and Redis away."""

from __future__ import annotations

import secrets
from copy import copy
from datetime import timedelta

import pytest

from idempotency import redis, redis_dues, work
from idempotency.exceptions import OperationInProgress, StoreUnavailable
from idempotency.unique_ids import ids as unique_ids_module
from idempotency.unique_ids import unique_ids
from idempotency.unique_ids.base import Answer
from idempotency.unique_ids.redis import CONTAINS, FINISH, GIVE_UP, REMOVE, TAKE
from tests.conftest import beside_postgresql
from tests.processes.redis_caches import WAYS, at_every_command, connecting, go, redis_at
from tests.project.models import Order
from tests.unique_ids.conftest import fail, run, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    beside_postgresql,
]
SCRIPTS = (TAKE, FINISH, GIVE_UP, REMOVE)
SENT = {
    "add": dict(zip(WAYS, (6, 2), strict=True)),
    "add_many": dict(zip(WAYS, (7, 5), strict=True)),
    "once": dict(zip(WAYS, (7, 4), strict=True)),
    "fail": dict(zip(WAYS, (7, 4), strict=True)),
    "discard": dict(zip(WAYS, (6, 2), strict=True)),
}


@pytest.fixture
def options():
    return {}


@pytest.fixture
def ids(proxy, settings, retries, fault, options):
    """Behind the proxy. The alias "direct" has the same past it."""
    store = {"BACKEND": settings.REDIS_UNIQUE_IDS, "WINDOW": timedelta(minutes=1), **options}
    settings.IDEMPOTENCY_UNIQUE_IDS = {"default": {**store, "LOCATION": "faulty"}}
    with redis_at(settings, proxy.port, **connecting(fault, retries)):
        for script in (*SCRIPTS, CONTAINS):
            redis.connection("direct").script_load(script.text)
        yield unique_ids()


def add_directly(ids, id="a"):
    """Past the proxy, as another caller."""
    there = copy(ids.store)
    there.location = "direct"
    return there.add([ids.digest(id)], secrets.token_bytes(16))[0].answer


@pytest.fixture
def befallen(proxy, ids, fault, number, way, monkeypatch):
    """The command of that number, from here on."""
    go(way, SCRIPTS, proxy, monkeypatch)
    proxy.fault(fault, at=number)


@pytest.mark.parametrize("retries", ["once"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", SENT)
def test_every_command_has_a_number(way, operation, proxy, ids, monkeypatch):
    go(way, SCRIPTS, proxy, monkeypatch)
    {
        "add": lambda: ids.add("a"),
        "add_many": lambda: ids.add_many(list("ab")),
        "once": lambda: run(ids),
        "fail": lambda: fail(ids),
        "discard": lambda: ids.discard("a"),
    }[operation]()
    assert len(proxy.commands) == SENT[operation][way], proxy.commands


def handled_once(proxy, ids, id="a"):
    """Whether nobody is let in any more, before and after what was held back has arrived."""
    proxy.mend()
    told = [run(ids, id), ids.add(id)]
    proxy.release()
    return [*told, run(ids, id), ids.add(id)] == ["handled", False] * 2


@at_every_command(SENT["add"])
def test_the_first_caller_adds_it(befallen, proxy, ids):
    assert ids.add("a")
    assert handled_once(proxy, ids)


@at_every_command(SENT["add_many"])
def test_the_first_caller_adds_them_all(befallen, proxy, ids):
    assert ids.add_many(list("abc")) == [True] * 3
    assert all(handled_once(proxy, ids, id) for id in "abc")


@at_every_command(SENT["once"])
def test_the_first_caller_gets_in_once(befallen, proxy, ids):
    assert run(ids) == "ran"
    wait_until(lambda: not redis_dues._dues)
    assert handled_once(proxy, ids)
    assert Order.objects.count() == 1


@at_every_command(SENT["fail"])
def test_what_failed_is_handled_again_once(befallen, proxy, ids):
    fail(ids)
    proxy.mend()
    assert run(ids) == "ran"
    assert handled_once(proxy, ids)
    assert Order.objects.count() == 1


@at_every_command(SENT["discard"])
def test_what_was_discarded_is_handled_again_once(befallen, proxy, ids, fault, retries):
    assert add_directly(ids) is Answer.WON
    try:
        ids.discard("a")
    except StoreUnavailable:
        if fault == "delay-request":
            pytest.skip("it may arrive at any time: its caller was told that nobody knows")
    proxy.mend()
    ids.discard("a")
    assert ids.add("a")
    assert handled_once(proxy, ids)


@pytest.mark.parametrize(("retries", "fault"), [("redis-py-retries", "delay-request")])
def test_a_late_repetition_of_a_removal_does_not_undo_what_came_after_it(proxy, ids, fault):
    assert add_directly(ids) is Answer.WON
    proxy.fault(fault, only="EVALSHA", at=1)
    ids.discard("a")
    assert add_directly(ids) is Answer.WON
    assert handled_once(proxy, ids)


@pytest.mark.parametrize("retries", ["redis-py-retries"])
def test_redis_py_is_not_told_that_its_own_command_was_another_caller(proxy, ids, monkeypatch):
    monkeypatch.setattr(unique_ids_module, "ATTEMPTS", 1)
    monkeypatch.setattr(work, "ATTEMPTS", 1)
    for use in (lambda: ids.add("a"), lambda: run(ids, "b") == "ran"):
        proxy.clear()
        proxy.fault("drop-reply", only="EVALSHA", at=1, times=3)
        assert use()
        assert proxy.commands.count("EVALSHA") >= 4
        proxy.mend()
    assert run(ids) == run(ids, "b") == "handled"


@pytest.mark.parametrize("only", [None, "EVALSHA"])
@pytest.mark.parametrize("fault", ["drop-request", "drop-reply"])
def test_when_every_attempt_fails_nothing_runs_and_nothing_counts_as_handled(proxy, ids, fault, only):
    proxy.fault(fault, only=only)
    for use in (lambda: ids.add("a"), lambda: run(ids, "b"), lambda: ids.add_many(list("cd"))):
        with pytest.raises(StoreUnavailable):
            use()
    assert not Order.objects.exists()
    proxy.mend()
    # At once, whatever the thread that settles has done by now.
    assert ids.add_many(list("acd")) == [True] * 3
    assert run(ids, "b") == "ran"
    assert all(handled_once(proxy, ids, id) for id in "abcd")


@pytest.mark.parametrize("retries", ["once"])
@pytest.mark.parametrize("lost", ["add", "once"])
def test_what_a_vain_attempt_added_is_given_up_when_redis_is_back(proxy, ids, lost):
    proxy.fault("drop-reply", only="EVALSHA", at=1, times=2)
    proxy.fault("drop-request", only="EVALSHA", at=3)
    with pytest.raises(StoreUnavailable):
        ids.add("a") if lost == "add" else run(ids)
    proxy.mend()
    wait_until(lambda: not redis_dues._dues)
    assert add_directly(ids) is Answer.WON


@pytest.mark.parametrize("retries", ["once"])
@pytest.mark.parametrize("lost", ["add", "once"])
def test_whoever_comes_first_gives_up_what_a_vain_attempt_added(proxy, ids, lost, monkeypatch):
    """Told that it was handled, they would lose the message."""
    monkeypatch.setattr(redis_dues, "_settle_soon", lambda: None)
    proxy.fault("drop-reply", only="EVALSHA", at=1, times=2)
    proxy.fault("drop-request", only="EVALSHA", at=3)
    with pytest.raises(StoreUnavailable):
        ids.add("a") if lost == "add" else run(ids)
    assert redis_dues._dues
    proxy.mend()
    assert ids.add("a") if lost == "add" else run(ids) == "ran"
    assert handled_once(proxy, ids)


@pytest.mark.parametrize(("retries", "fault"), [("once", "delay-request")])
@pytest.mark.parametrize("late", ["add", "once"])
def test_a_late_attempt_that_gave_up_takes_nothing_from_another(proxy, ids, fault, late):
    proxy.fault(fault, only="EVALSHA", at=1, times=work.ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        ids.add("a") if late == "add" else run(ids)
    proxy.wait_until_held(work.ATTEMPTS)
    proxy.release()
    assert run(ids) == "ran"
    assert handled_once(proxy, ids)


@pytest.mark.parametrize(("retries", "fault"), [("once", "delay-request")])
def test_a_late_giving_up_lets_nobody_in_beside_the_next(proxy, ids, fault):
    proxy.fault(fault, only="EVALSHA", at=2)
    fail(ids)
    proxy.mend()
    with ids.once("a"):
        proxy.wait_until_held()
        proxy.release()
        assert isinstance(run(ids), OperationInProgress)
    assert handled_once(proxy, ids)
