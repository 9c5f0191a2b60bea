from __future__ import annotations

import time

import pytest
from django.db import connection

from idempotency.signals import lock_lost
from tests.conftest import LOCK_MEDIUMS, available
from tests.processes.gates import STUCK
from tests.processes.holders import Holders
from tests.processes.witness import Witness
from tests.settings import VENDOR

ONE_WILL_DO = "about a medium that is no database: one of those will do beside it, and that is PostgreSQL"
beside_postgresql = pytest.mark.skipif(VENDOR != "postgresql", reason=ONE_WILL_DO)


@pytest.fixture(params=LOCK_MEDIUMS)
def contested(request):
    """Each medium in turn; those that are no database beside PostgreSQL only."""
    if request.param != "default" and connection.vendor != "postgresql":
        pytest.skip(ONE_WILL_DO)
    return available(request.param)


@pytest.fixture(scope="session")
def started_holders(django_db_setup, django_db_blocker):
    with Holders() as holders:
        yield holders


@pytest.fixture
def holders(started_holders):
    yield started_holders
    started_holders.dismiss()


@pytest.fixture
def witness():
    with Witness() as witness:
        yield witness


@pytest.fixture
def losses():
    """Names of the locks of which it was said that they were lost."""
    names = []

    def note(key, **extra):
        names.append(key.key)

    lock_lost.connect(note)
    yield names
    lock_lost.disconnect(note)


def wait_until(condition, seconds=STUCK):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def shortest_ttl(medium):
    """A session of ZooKeeper's lasts two of the server's ticks at least."""
    return 1.0 if medium == "zookeeper" else 0.5


def enter(holder, **options):
    """Also on a machine so busy that a short session's time is over before it is connected."""
    wait_until(lambda: holder.tell("enter", **options) != "StoreUnavailable")
    assert holder.says == ""
