"""Tokens in a Redis that a test has put a proxy in front of, or has started for itself."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta

from idempotency.tokens import tokens
from tests.processes.gates import STUCK
from tests.processes.redis_caches import redis_at, redis_behind_proxy, require_redis

__all__ = ["HOLDER", "redis_behind_proxy", "require_redis", "tokens_at"]

HOLDER = ("user", "1")
MINUTE = timedelta(minutes=1)


@contextmanager
def tokens_at(settings, port, *, timeout=STUCK, pool=None, **options):
    """The default store, behind the port. The alias "direct" sees the same tokens past a proxy there."""
    # What tests leave behind is gone in a minute.
    store = {"BACKEND": settings.REDIS_TOKENS, "LIFETIME": MINUTE, "RETENTION": MINUTE}
    settings.IDEMPOTENCY_TOKENS = {
        "default": {**store, "LOCATION": "faulty", **options},
        "direct": {**store, "LOCATION": "direct"},
    }
    with redis_at(settings, port, timeout=timeout, pool=pool):
        yield tokens()
