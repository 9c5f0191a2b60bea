"""How often Redis is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import beside_postgresql
from tests.processes.gates import STUCK
from tests.processes.redis_link import Fault
from tests.unique_ids.conftest import run, wait_until
from tests.unique_ids.test_faults import ids, options  # noqa: F401  (fixtures)

pytestmark = [
    pytest.mark.django_db(transaction=True),
    beside_postgresql,
]


@pytest.mark.parametrize("retries", ["once"])
def test_an_id_is_added_in_one_round_trip_and_several_are_too(proxy, ids):  # noqa: F811
    ids.add("warm"), ids.add_many(["w", "x"])
    for use in (
        lambda: ids.add("a"),
        lambda: ids.add("a"),
        lambda: "a" in ids,
        lambda: ids.discard("a"),
        lambda: ids.add_many(list("bcdefg")),
    ):
        proxy.clear()
        use()
        assert proxy.round_trips == 1, proxy.commands


@pytest.mark.parametrize(("retries", "fault"), [("once", Fault.DROP_REPLY)])
def test_a_thousand_are_asked_for_before_the_first_is_answered(proxy, ids):  # noqa: F811
    """Which is one round trip. Replies to what is sent in pieces come in between, and are many turns."""
    ids.add("warm")
    proxy.clear()
    proxy.fault("delay-reply", only="EVALSHA", at=1)
    with ThreadPoolExecutor(1) as pool:
        added = pool.submit(ids.add_many, map(str, range(1000)))
        proxy.wait_until_held()
        wait_until(lambda: proxy.commands.count("EVALSHA") == 1000)
        proxy.release()
        assert added.result(STUCK) == [True] * 1000


@pytest.mark.parametrize("retries", ["once"])
def test_work_is_guarded_in_two_round_trips(proxy, ids):  # noqa: F811
    run(ids, "warm")
    proxy.clear()
    run(ids)
    assert (proxy.round_trips, proxy.commands) == (2, ["EVALSHA", "EVALSHA"])
