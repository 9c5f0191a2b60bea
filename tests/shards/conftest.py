from __future__ import annotations

import pytest

from idempotency.shards import shard_map
from idempotency.shards.adopting import adopt
from tests.project.models import Order

TWO = {"VERSION": 1, "SLOTS": 16, "MAP": {"default": "0-7", "elsewhere": "8-15"}, "MODELS": ["project"]}
MOVED = {**TWO, "VERSION": 2, "MAP": {"default": "0-5", "elsewhere": "6-15"}}
BOTH = ("default", "elsewhere")


@pytest.fixture
def shards(settings, transactional_db):
    settings.IDEMPOTENCY_SHARDS = TWO
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "memory://"}}
    settings.DATABASE_ROUTERS = ["idempotency.shards.router.ShardRouter"]
    adopt(shard_map())
    return shard_map()


@pytest.fixture
def user_on(shards):
    """``user_on("elsewhere")`` or ``user_on(9)``: a user, as scopes have it, of that database or slot."""

    def user_on(place):
        users = (("user", str(number)) for number in range(1000))
        return next(
            each for each in users if place in (shards.slot_of(each), shards.owners[shards.slot_of(each)])
        )

    return user_on


def create(key):
    return Order.objects.create(reference=key).pk


def orders():
    """References by database."""
    return {alias: sorted(Order.objects.using(alias).values_list("reference", flat=True)) for alias in BOTH}
