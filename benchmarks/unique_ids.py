"""What a remembered id takes of Redis' memory, and of time, against what one would write by hand.

In a Redis of its own, at first empty. Ids are the 36 characters of a UUID.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.test import override_settings
from django_redis import get_redis_connection

from idempotency.unique_ids import unique_ids
from idempotency.unique_ids.base import BaseUniqueIdStore
from tests.processes.redis_server import RedisServer
from tests.services.base import HOST

BATCH = 1000
SLICES = 4  # of one WINDOW, by default
DAY = 24 * 3600
Fill = Callable[[Any, Sequence[str]], object]


def measure(ids: int, rounds: int) -> dict[str, Any]:
    with RedisServer() as server:
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://{HOST}:{server.port}/0"}
        with override_settings(CACHES={**settings.CACHES, "ids": cache}):
            return {"memory": list(memory(ids)), "time": times(rounds)}


def fresh() -> list[str]:
    return [str(uuid4()) for _ in range(BATCH)]


def memory(ids: int) -> Iterator[dict[str, Any]]:
    """All ids come in one slice of time, as a quarter of what a WINDOW would hold: each slice is alike."""
    for share in (0.25, 1, 3):
        with expecting(int(SLICES * ids / share)):
            name = f"unique_ids(), {share:g} times EXPECTED_IDS"
            yield {"name": name, **bytes_each(lambda client, batch: unique_ids("ids").add_many(batch), ids)}
    yield {"name": "SET id 1 NX EX", **bytes_each(set_each, ids)}
    yield {"name": "SADD into one set", **bytes_each(lambda client, batch: client.sadd("all", *batch), ids)}


@contextmanager
def expecting(expected: int) -> Iterator[None]:
    store = {"BACKEND": "idempotency.unique_ids.redis.RedisUniqueIdStore", "LOCATION": "ids"}
    with override_settings(**{BaseUniqueIdStore.SETTING: {"ids": {**store, "EXPECTED_IDS": expected}}}):
        yield


def set_each(client: Any, batch: Sequence[str]) -> None:
    pipeline = client.pipeline(transaction=False)
    for id in batch:
        pipeline.set(id, "1", nx=True, ex=DAY)
    pipeline.execute()


def bytes_each(fill: Fill, ids: int) -> dict[str, Any]:
    """By what Redis itself has allocated. Nonces, by which an addition is known again for a minute, are
    deleted before it is looked: the steady state. ``at once`` is with them."""
    client = get_redis_connection("ids")
    client.flushall()
    before = used(client)
    for _ in range(ids // BATCH):
        fill(client, fresh())
    at_once = used(client) - before
    forget_nonces(client)
    return {"bytes": (used(client) - before) / ids, "at_once": at_once / ids}


def used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def forget_nonces(client: Any) -> None:
    keys = [
        key for key in client.scan_iter(match="*:ids:*", count=BATCH) if len(key.rpartition(b":")[2]) == 32
    ]
    for start in range(0, len(keys), BATCH):
        client.unlink(*keys[start : start + BATCH])
    # The table of keys has grown for them. Redis shrinks it by and by, also while nobody asks.
    before = 0
    while before != (now := used(client)):
        before = now
        time.sleep(1)


def times(rounds: int) -> list[dict[str, Any]]:
    """Microseconds per id, where a quarter of what is expected is there already."""
    client = get_redis_connection("ids")
    client.flushall()
    with expecting(100_000):
        for _ in range(25):
            unique_ids("ids").add_many(fresh())
        actions: dict[str, tuple[Callable[[list[str]], object], int]] = {
            "SET id 1 NX EX": (lambda batch: client.set(batch[0], "1", nx=True, ex=DAY), 1),
            "add()": (lambda batch: unique_ids("ids").add(batch[0]), 1),
            "1000 SET in a pipeline": (lambda batch: set_each(client, batch), BATCH),
            "add_many() of 1000": (lambda batch: unique_ids("ids").add_many(batch), BATCH),
        }
        return [{"name": name, "microseconds": each(*action, rounds)} for name, action in actions.items()]


def each(action: Callable[[list[str]], object], count: int, rounds: int) -> float:
    gc.collect()
    found = []
    for _ in range(rounds if count == BATCH else 20 * rounds):
        batch = fresh() if count == BATCH else [str(uuid4())]
        started = perf_counter()
        action(batch)
        found.append((perf_counter() - started) / count)
    return median(found) * 1e6
