"""A Redis whose replica is promoted before it has heard of a lock, which is then held by two."""

from __future__ import annotations

import pytest

pytest.importorskip("django_redis", reason="django-redis is not installed")

from tests.locks.conftest import beside_postgresql
from tests.processes.gates import Gate
from tests.processes.redis_caches import require_redis
from tests.processes.redis_sentinel import Replicated
from tests.project.models import Guarded, Order

pytestmark = [
    beside_postgresql,
    pytest.mark.django_db(transaction=True),
    pytest.mark.race,
    pytest.mark.crash,
]
ALIAS = "replicated"


@pytest.fixture
def replicated():
    require_redis()
    with Replicated() as replicated:
        yield replicated


@pytest.fixture
def pair(replicated, holders, settings):
    """Two processes, and a replica that hears of nothing from here on."""
    medium = {"BACKEND": settings.REDIS_LOCKS, "LOCATION": ALIAS}
    pair = [holders.new(caches={ALIAS: replicated.cache}, locks={ALIAS: medium}) for _ in range(2)]
    replicated.lag_behind()
    return pair


def test_no_write_lands_after_one_with_a_higher_fence(replicated, pair):
    row = Guarded.objects.create(value="nobody's")
    first, second = pair
    assert first.tell("enter", name=row.lock_name(), alias=ALIAS) is None
    assert second.tell("enter", name=row.lock_name(), alias=ALIAS) == "LockBusy"
    assert first.tell("read", pk=row.pk) is None
    assert first.tell("save", value="first's") is None
    replicated.fail_over()
    assert second.tell("enter", name=row.lock_name(), alias=ALIAS) is None, second.says
    # Neither knows of the other.
    assert [holder.tell("is_lost") for holder in pair] == [False, False]
    assert second.tell("read", pk=row.pk) is None
    assert second.tell("save", value="second's") is None, second.says
    assert first.tell("save", value="first's again") == "StaleFence", first.says
    row.refresh_from_db()
    assert row.value == "second's"
    assert list(Order.objects.values_list("reference", flat=True)) == ["first's", "second's"]
    assert second.tell("save", value="second's again") is None, second.says


def test_the_work_is_done_once_although_both_are_at_it(replicated, pair):
    first, second = pair
    with Gate() as gate:
        first.order("work_once", key="a", alias=ALIAS, gate=gate.listener.getsockname()[1])
        gate.wait_for()
        assert second.tell("work_once", key="a", alias=ALIAS) == "LockBusy"
        replicated.fail_over()
        # It is given the lock, and finds that there is a done mark on its way.
        assert second.tell("work_once", key="a", alias=ALIAS) == "OperationInProgress", second.says
    assert first.answer() is True, first.says
    assert [holder.tell("work_once", key="a", alias=ALIAS) for holder in pair] == [False, False]
    assert Order.objects.count() == 1


def test_the_work_is_done_once_although_another_comes_after_it(replicated, pair):
    first, second = pair
    assert first.tell("work_once", key="a", alias=ALIAS) is True
    replicated.fail_over()
    assert second.tell("work_once", key="a", alias=ALIAS) is False, second.says
    assert Order.objects.count() == 1
