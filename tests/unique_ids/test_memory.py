"""At most 25 bytes per remembered id, where there are a quarter of EXPECTED_IDS to three times as many."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django_redis import get_redis_connection

from idempotency.unique_ids import unique_ids
from tests.conftest import beside_postgresql
from tests.processes.redis_caches import redis_at, require_redis
from tests.processes.redis_server import RedisServer

pytestmark = beside_postgresql
IDS = 30_000


@pytest.fixture
def client(settings):
    require_redis()
    with RedisServer() as server, redis_at(settings, server.port):
        # As a project's, which has none or a short one.
        settings.CACHES["faulty"]["KEY_PREFIX"] = "shop"
        yield get_redis_connection("faulty")


@pytest.mark.parametrize("slices", [4, 6])
@pytest.mark.parametrize("share", [0.25, 1, 3])
def test_an_id_takes_25_bytes_at_most(client, settings, share, slices):
    """All of one slice of time, as many as it has when they come evenly."""
    window = timedelta(hours=24)
    settings.IDEMPOTENCY_UNIQUE_IDS = {
        "default": {
            "BACKEND": settings.REDIS_UNIQUE_IDS,
            "LOCATION": "faulty",
            "WINDOW": window,
            "SLICE": window / slices,
            "EXPECTED_IDS": int(IDS * slices / share),
        }
    }
    for _ in range(IDS // 1000):
        assert all(unique_ids().add_many(uuid4() for _ in range(1000)))
    buckets = [key for key in client.scan_iter(count=1000) if len(key.rpartition(b":")[2]) == 1]
    assert sum(client.llen(key) for key in buckets) == IDS
    taken = sum(client.memory_usage(key, samples=0) for key in buckets)
    # Beside that, an entry in the table of expiries, and a place in each of the two tables.
    assert (taken + len(buckets) * (24 + 2 * 16)) / IDS <= 25
