"""What a lock costs that nobody else wants, and how soon the next one has it where somebody waits."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

from django.db import connections
from django_redis import get_redis_connection
from kazoo.client import KazooClient

from benchmarks.database import settle
from idempotency.locks import lock
from tests import services

ON_REDIS = lock("alone", alias="redis")
ON_ZOOKEEPER = lock("alone", alias="zookeeper")
IN_DATABASE = lock("alone")
WAITED = 60


def measure(rounds: int, block: int) -> dict[str, Any]:
    settle()
    kazoo = KazooClient(services.zookeeper.hosts)
    kazoo.start()
    groups = {
        "redis": (
            ("redis-py's Lock", partial(redis_py, get_redis_connection("tokens")), None),
            ("lock()", partial(acquired, ON_REDIS), 1.2),
            ("lock(), and its fence", partial(fenced, ON_REDIS), 2.0),
        ),
        "zookeeper": (
            ("kazoo's Lock", partial(bare_kazoo, kazoo), None),
            ("lock()", partial(acquired, ON_ZOOKEEPER), 1.1),
        ),
        "database": (
            ("lock()", partial(acquired, IN_DATABASE), None),
            ("lock(), and its fence", partial(fenced, IN_DATABASE), None),
        ),
    }
    blocks = {"redis": block, "zookeeper": max(10, block // 10), "database": max(10, block // 3)}
    alone = {medium: compare(group, rounds, blocks[medium]) for medium, group in groups.items()}
    kazoo.stop()
    return {"alone": alone, "handed_over": [handed_over(*case) for case in HANDOVERS]}


def acquired(one: Any) -> None:
    with one:
        pass


def fenced(one: Any) -> None:
    with one as held:
        assert held.fence


def redis_py(client: Any) -> None:
    with client.lock("benchmark", timeout=30):
        pass


def bare_kazoo(client: KazooClient) -> None:
    with client.Lock("/benchmark/alone"):
        pass


def compare(group: Any, rounds: int, block: int) -> list[dict[str, Any]]:
    """Blocks of all variants take turns, in a new order each round; ratios to the first are by round."""
    times: dict[str, list[float]] = {name: [] for name, *_ in group}
    for _, run, _ in group:
        run()
    for _ in range(rounds):
        for name, run, _ in random.sample(group, len(group)):
            times[name].append(median(timed(run) for _ in range(block)))
    first = times[group[0][0]]
    found = []
    for name, _, goal in group:
        ratios = [one / base for one, base in zip(times[name], first, strict=True)]
        row = {"name": name, "microseconds": median(times[name]) * 1e6, "goal": goal}
        found.append({**row, "ratio": median(ratios), "quartiles": quantiles(ratios, n=4)[::2]})
    return found


def timed(run: Callable[[], object]) -> float:
    started = perf_counter()
    run()
    return perf_counter() - started


def handed_over(name: str, make: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds from the release until somebody who waits has it."""
    delays = []
    for _ in range(WAITED):
        had: list[float] = []
        waiting = Event()
        waiter = Thread(target=wait_for, args=(make, waiting, had))
        with make():
            waiter.start()
            waiting.wait()
            # Long enough to be waiting, and at no fixed point of anybody's interval.
            sleep(random.uniform(0.05, 0.15))
            released = perf_counter()
        waiter.join()
        delays.append((had[0] - released) * 1000)
    return {"name": name, "milliseconds": median(delays), "worst": max(delays)}


def wait_for(make: Callable[[], Any], waiting: Event, had: list[float]) -> None:
    waiting.set()
    with make():
        had.append(perf_counter())
    connections.close_all()


HANDOVERS: tuple[tuple[str, Callable[[], Any]], ...] = (
    (
        "redis-py's Lock, sleep=0.1",
        lambda: get_redis_connection("tokens").lock("handed-over", timeout=30, sleep=0.1),
    ),
    ("lock() on Redis", lambda: lock("handed-over", wait=30, alias="redis")),
    ("lock() on ZooKeeper", lambda: lock("handed-over", wait=30, alias="zookeeper")),
    ("lock() in the database", lambda: lock("handed-over", wait=30)),
)
