"""How long one request keeps a worker busy, and what it says to the database.

Blocks of the variants alternate, in an order that rotates from round to round, in one process on one
connection: what disturbs the machine disturbs them all alike. A round gives each variant the median of
its block; a ratio is taken within a round.
"""

from __future__ import annotations

import gc
from statistics import median, quantiles
from typing import Any

from django.db import connection

from benchmarks.calls import Caller, Refused
from benchmarks.database import settle
from benchmarks.variants import Setup, Variant
from benchmarks.wire import counted
from benchmarks.wsgi import application

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
    with counted() as count:
        caller.block(variant, 5)
        before = count.statements, count.round_trips
        caller.block(variant, COUNTED)
        statements = (count.statements - before[0]) / COUNTED
        round_trips = (count.round_trips - before[1]) / COUNTED
    return {"statements": statements, "round_trips": round_trips}
