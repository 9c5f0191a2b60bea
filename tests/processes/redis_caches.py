"""A Redis that a test has put a proxy in front of, or has started for itself, as a cache of the project's."""

from __future__ import annotations

from contextlib import contextmanager
from uuid import uuid4

import pytest
from django_redis.pool import ConnectionFactory

from idempotency import redis_dues
from tests import services
from tests.processes.gates import STUCK
from tests.processes.redis_proxy import FaultyRedis


def require_redis():
    if reason := services.missing("redis"):
        (pytest.fail if services.CI else pytest.skip)(reason)


def redis_behind_proxy():
    require_redis()
    return FaultyRedis(services.HOST, services.redis.port)


@contextmanager
def redis_at(settings, port, *, timeout=STUCK, pool=None):
    """CACHES["faulty"] is behind the port; "direct" has the same keys past a proxy there."""
    url = f"redis://{services.HOST}:{port}/15"
    cache = {"BACKEND": "django_redis.cache.RedisCache", "KEY_PREFIX": uuid4().hex}
    connecting = {"SOCKET_TIMEOUT": timeout, "CONNECTION_POOL_KWARGS": pool or {}}
    settings.CACHES = {
        **settings.CACHES,
        "faulty": {**cache, "LOCATION": url, "OPTIONS": connecting},
        "direct": {**cache, "LOCATION": services.redis.url},
    }
    try:
        yield
    finally:
        redis_dues._dues.clear()
        # django-redis keeps the pool, and it the sockets, for as long as the process lives.
        if pool := ConnectionFactory._pools.pop(url, None):
            pool.disconnect()
