"""Tokens in a Redis that a test has put a proxy in front of, or has started for itself."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
from django_redis.pool import ConnectionFactory

from idempotency import redis_dues
from idempotency.tokens import tokens
from tests import services
from tests.processes.gates import STUCK
from tests.processes.redis_proxy import FaultyRedis

HOLDER = ("user", "1")
MINUTE = timedelta(minutes=1)


def require_redis():
    if reason := services.missing("redis"):
        (pytest.fail if services.CI else pytest.skip)(reason)


def redis_behind_proxy():
    require_redis()
    return FaultyRedis(services.HOST, services.redis.port)


@contextmanager
def tokens_at(settings, port, *, timeout=STUCK, pool=None, **options):
    """The default store, behind the port. The alias "direct" sees the same tokens past a proxy there."""
    url = f"redis://{services.HOST}:{port}/15"
    cache = {"BACKEND": "django_redis.cache.RedisCache", "KEY_PREFIX": uuid4().hex}
    connecting = {"SOCKET_TIMEOUT": timeout, "CONNECTION_POOL_KWARGS": pool or {}}
    settings.CACHES = {
        **settings.CACHES,
        "faulty": {**cache, "LOCATION": url, "OPTIONS": connecting},
        "direct": {**cache, "LOCATION": services.redis.url},
    }
    # What tests leave behind is gone in a minute.
    store = {"BACKEND": settings.REDIS_TOKENS, "LIFETIME": MINUTE, "RETENTION": MINUTE}
    settings.IDEMPOTENCY_TOKENS = {
        "default": {**store, "LOCATION": "faulty", **options},
        "direct": {**store, "LOCATION": "direct"},
    }
    try:
        yield tokens()
    finally:
        redis_dues._dues.clear()
        # django-redis keeps the pool, and it the sockets, for as long as the process lives.
        if pool := ConnectionFactory._pools.pop(url, None):
            pool.disconnect()
