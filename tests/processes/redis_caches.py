"""A Redis that a test has put a proxy in front of, or has started for itself, as a cache of the project's."""

from __future__ import annotations

from contextlib import contextmanager
from hashlib import sha1
from uuid import uuid4

import pytest
from django_redis.pool import ConnectionFactory
from redis import ConnectionError, TimeoutError
from redis.backoff import NoBackoff
from redis.retry import Retry

from idempotency import redis, redis_dues
from tests import services
from tests.processes.gates import STUCK
from tests.processes.redis_link import Fault
from tests.processes.redis_proxy import FaultyRedis

SHORT = 0.5
"""Also for a busy machine long enough to answer what is not delayed."""
RETRIES = {
    "once": {},
    "redis-py-retries": {
        "retry": Retry(NoBackoff(), 3),
        "retry_on_error": [ConnectionError, TimeoutError],
    },
}
WAYS = ("on-a-new-connection", "of-an-unknown-script")


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


# Faults


@pytest.fixture
def proxy():
    with redis_behind_proxy() as proxy:
        yield proxy


@pytest.fixture
def fault():
    """Tests that do not name one are about replies that are lost."""
    return Fault.DROP_REPLY


@pytest.fixture(params=RETRIES)
def retries(request):
    return request.param


def connecting(fault, retries):
    """What is only delayed shows as a timeout, and what is lost at once."""
    return {"timeout": SHORT if fault.startswith("delay") else STUCK, "pool": RETRIES[retries]}


def go(way, scripts, proxy, monkeypatch):
    """Have the proxy count what is sent that way."""
    if way == "of-an-unknown-script":
        for script in scripts:
            text = f"{script.text}-- {uuid4()}"
            monkeypatch.setitem(vars(script), "text", text)
            # Set and not deleted: what is worked out anew would outlast the test.
            monkeypatch.setitem(vars(script), "sha", sha1(text.encode()).hexdigest())
        redis.connection("faulty").ping()
        proxy.clear()


def at_every_command(sent):
    """``sent``: by the way, how many commands the operation sends."""
    numbers = [(way, number) for way in WAYS for number in range(1, sent[way] + 1)]

    def parametrized(test):
        test = pytest.mark.parametrize("fault", list(Fault))(test)
        return pytest.mark.parametrize(("way", "number"), numbers)(test)

    return parametrized
