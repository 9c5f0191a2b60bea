"""Duplicates in many processes, whose records would each go to another partition, past each unique index."""

from __future__ import annotations

import pytest

from idempotency.models import IdempotencyRecord
from tests.partitions.conftest import put_into, sql
from tests.processes.server import Server
from tests.test_races import age_records, assert_one_response_per_key, assert_replays, keys, orders

pytestmark = [
    pytest.mark.race,
    pytest.mark.django_db(transaction=True),
    pytest.mark.psycopg3,
    pytest.mark.pgbouncer,
    pytest.mark.usefixtures("users", "partitioned", "moving_boundary"),
]
VIEWS = pytest.mark.parametrize("view", ["/race/", "/waiting-race/", "/lease-race/"])


@pytest.fixture(scope="module")
def server(partitioned_module, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server") / "log", SERVED_PARTITIONS="yes") as server:
        yield server


@VIEWS
def test_of_duplicates_over_a_boundary_one_has_an_effect(server, view):
    answers = server.storm(view, keys=keys(50), processes=8, repeats=2)
    assert_one_response_per_key(answers, keys(50))
    assert orders() == dict.fromkeys(keys(50), 1)
    assert IdempotencyRecord.objects.count() == 50
    assert len(sql("SELECT DISTINCT period FROM idempotency_record")) == 3
    assert_replays(server, view, keys(50))


@VIEWS
def test_an_expired_record_of_an_older_period_gives_way_to_one_new_effect(server, view):
    server.storm(view, keys=keys(20), processes=1, repeats=1)
    put_into(-1)
    age_records(20)
    answers = server.storm(view, keys=keys(20), processes=8, repeats=2)
    assert_one_response_per_key(answers, keys(20))
    assert orders() == dict.fromkeys(keys(20), 2)
    assert IdempotencyRecord.objects.count() == 20
