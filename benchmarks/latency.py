"""How long one request keeps a worker busy, and what it says to the database.

Blocks of the variants alternate, in an order that rotates from round to round, in one process on one
connection: what disturbs the machine disturbs them all alike. A round gives each variant the median of
its block; a ratio is taken within a round.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from django.db import connection

from benchmarks.authentication import holder
from benchmarks.calls import Call, Caller, Refused, new_calls
from benchmarks.database import settle
from benchmarks.variants import Setup, Variant
from benchmarks.wire import counted, counted_redis
from benchmarks.wsgi import application
from idempotency.tokens import tokens

COUNTED = 20


def measure(setup: Setup, rounds: int, block: int) -> list[dict[str, Any]]:
    """One row of the table for each variant."""
    connection.settings_dict["ATOMIC_REQUESTS"] = setup.atomic_requests
    caller = Caller(application)
    failures = {variant: failure for variant in setup.variants if (failure := warmed_up(caller, variant))}
    variants = [variant for variant in setup.variants if variant not in failures]
    settle()
    medians: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for number in range(rounds):
        start = number % len(variants)
        for variant in variants[start:] + variants[:start]:
            gc.collect()
            medians[variant].append(median(caller.block(variant, block)))
    bare = medians[setup.variants[0]]
    rows = [row(variant, medians[variant], bare) | conversation(caller, variant) for variant in variants]
    return rows + [{"name": name(variant), "failure": failure} for variant, failure in failures.items()]


def warmed_up(caller: Caller, variant: Variant) -> str | None:
    """What goes wrong with the variant; None as it should be. Other packages have their bugs."""
    try:
        caller.block(variant, 50)
    except Refused as refusal:
        return str(refusal)
    return None


def name(variant: Variant) -> str:
    return f"({variant.letter}) {variant.label}"


def row(variant: Variant, own: list[float], bare: list[float]) -> dict[str, Any]:
    ratios = [mine / base for mine, base in zip(own, bare, strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return {
        "name": name(variant),
        "microseconds": median(own) * 1e6,
        "ratio": middle,
        "quartiles": (low, high),
        "goal": variant.goal,
    }


def conversation(caller: Caller, variant: Variant) -> dict[str, float]:
    """Statements and round trips of one request."""
    calls = new_calls(5 + COUNTED, variant.tokens)
    with counted() as count, counted_redis() as redis:
        run(caller, variant, calls[:5])
        before = count.statements, count.round_trips, redis.round_trips
        run(caller, variant, calls[5:])
        return {
            "statements": (count.statements - before[0]) / COUNTED,
            "round_trips": (count.round_trips - before[1]) / COUNTED,
            "redis": (redis.round_trips - before[2]) / COUNTED,
        }


def run(caller: Caller, variant: Variant, calls: list[Call]) -> None:
    """The same again, where the variant is a replay."""
    if variant.replays:
        calls = caller.done[variant.path][: len(calls)]
    for call in calls:
        caller.call(variant, call)


def measure_tokens(rounds: int) -> list[dict[str, Any]]:
    """What a token itself costs on Redis, without a view."""
    store, who = tokens("redis"), holder()
    actions: dict[str, Callable[[], object]] = {
        "issue 1": lambda: store.issue(who),
        "issue 20": lambda: store.issue(who, count=20),
        "consume": lambda: store.consume(ready.pop(), who).__enter__(),
    }
    rows = []
    for name, action in actions.items():
        ready = [issued.token for issued in store.issue(who, count=20 * rounds + COUNTED)]
        seconds = [timed(action) for _ in range(20 * rounds)]
        with counted_redis() as redis:
            store.issue(who)
            before = redis.round_trips
            for _ in range(COUNTED - 1):
                action()
            trips = (redis.round_trips - before) / (COUNTED - 1)
        rows.append({"name": name, "microseconds": median(seconds) * 1e6, "redis": trips})
    return rows


def timed(action: Callable[[], object]) -> float:
    started = perf_counter()
    action()
    return perf_counter() - started
