from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from idempotency.exceptions import AlreadyHandled, OperationInProgress
from idempotency.unique_ids import unique_ids
from tests.conftest import UNIQUE_ID_MEDIUMS, in_turn
from tests.processes.gates import STUCK
from tests.project.models import Order

apart = pytest.mark.parametrize("medium", ["elsewhere", "redis", "redis-cluster"], indirect=True)
CLAIM = timedelta(milliseconds=300)


@pytest.fixture(params=UNIQUE_ID_MEDIUMS)
def medium(request):
    return in_turn(request.param)


@pytest.fixture
def made(medium, settings):
    """``made(CLAIM=…)``: ids with these options, of an alias that nobody else has."""
    options = dict(settings.IDEMPOTENCY_UNIQUE_IDS.get(medium, {}))
    alias = f"{medium}-{uuid4().hex}"

    def made(**more):
        settings.IDEMPOTENCY_UNIQUE_IDS = {**settings.IDEMPOTENCY_UNIQUE_IDS, alias: {**options, **more}}
        return unique_ids(alias, alias)

    return made


def run(ids, id="a", work=lambda: None, **options):
    """What became of it: "ran", "handled", or the error of a refusal."""
    try:
        with ids.once(id, **options):
            Order.objects.create(reference=id)
            work()
    except AlreadyHandled:
        return "handled"
    except OperationInProgress as error:
        return error
    return "ran"


def fail(ids, id="a", **options):
    def work():
        raise LookupError("the work's own")

    with pytest.raises(LookupError):
        run(ids, id, work, **options)


def die(ids, id="a"):
    """A process that was killed after it has claimed the id, on a medium that is not the work's."""
    guard = ids.once(id)
    guard._take_first()
    return guard


def wait_until(condition):
    """Mediums live by their own clocks, which are this machine's: they are asked until it is so."""
    deadline = time.monotonic() + STUCK
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def wait_until_over(moment):
    while timezone.now() <= moment + timedelta(milliseconds=20):
        time.sleep(0.005)


def claimed(ids, id="a"):
    """The error of whoever discards it while it is claimed."""
    try:
        ids.discard(id)
    except OperationInProgress as error:
        return error
    return None


@pytest.fixture
def seen_when_given_up(monkeypatch, made):
    """Whether there were orders when an id was given up."""
    seen = []
    store = type(made().store)
    give_up = store.give_up

    def note(*arguments):
        seen.append(Order.objects.exists())
        give_up(*arguments)

    monkeypatch.setattr(store, "give_up", note)
    return seen
