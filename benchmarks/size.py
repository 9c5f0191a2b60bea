"""What a guarded request costs on a table of ten thousand records, and on ever larger ones.

Two databases on one server: one stays small, one grows. Blocks of requests alternate between them, so
that what disturbs the machine disturbs both alike; a ratio is taken within a round.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from benchmarks.calls import Caller
from benchmarks.database import own_database, settle
from benchmarks.filling import bytes_per_record, fill, settle_large
from benchmarks.variants import Variant
from benchmarks.views import TABLE
from benchmarks.wsgi import application

FRESH = Variant("c", "fresh key", "/guarded/")
REPLAY = Variant("d", "replay", "/guarded/", replays=True)
# Larger ones may have indexes that were built at once, and are denser than those that grew.
WEIGHED = 100_000


def measure(sizes: list[int], rounds: int, block: int) -> dict[str, Any]:
    """A row of the table for each size, and the bytes that a record takes."""
    smallest, *larger = sizes
    fill(smallest)
    settle_large()
    found: dict[str, Any] = {"latency": [], "bytes": [], "weighed": 0}
    with another_database() as other:
        filled = 0
        for size in [smallest, *larger]:
            with used(other):
                started = perf_counter()
                fill(size - filled)
                filled = size
                settle_large()
                print(f"{size} records after {perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
                if size <= WEIGHED:
                    found |= {"bytes": bytes_per_record(), "weighed": size}
            found["latency"].append({"size": size} | compare(other, rounds, block))
    return found


def compare(other: BaseDatabaseWrapper, rounds: int, block: int) -> dict[str, Any]:
    """Fresh requests and replays, on the small table and on the other."""
    databases = [connections["default"], other]
    callers = [Caller(application), Caller(application)]
    marks = [newest(database) for database in databases]
    times: dict[Variant, list[list[float]]] = {FRESH: [[], []], REPLAY: [[], []]}
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            with used(databases[which]):
                gc.collect()
                for variant, medians in times.items():
                    seconds = median(callers[which].block(variant, block))
                    # The first round warms up.
                    if number:
                        medians[which].append(seconds)
    for database, mark in zip(databases, marks, strict=True):
        forget(database, mark)
    return {variant.label: shown(*medians) for variant, medians in times.items()}


def shown(small: list[float], large: list[float]) -> dict[str, Any]:
    low, middle, high = quantiles([one / base for one, base in zip(large, small, strict=True)], n=4)
    found = {"small": median(small) * 1e6, "microseconds": median(large) * 1e6}
    return {**found, "ratio": middle, "quartiles": (low, high)}


def newest(database: BaseDatabaseWrapper) -> int:
    with used(database), connection.cursor() as cursor:
        cursor.execute(f"SELECT MAX(id) FROM {TABLE}")
        return int(cursor.fetchone()[0])


def forget(database: BaseDatabaseWrapper, mark: int) -> None:
    """What was measured with, so that the small table stays small."""
    with used(database), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {TABLE} WHERE id > %s", [mark])
        settle_large()


@contextmanager
def another_database() -> Iterator[BaseDatabaseWrapper]:
    """A second one of the same shape, dropped afterwards."""
    first = connections["default"]
    name = first.settings_dict["NAME"]
    other = first.copy()
    other.settings_dict["NAME"] = other.settings_dict["TEST"]["NAME"] = f"{name}_large"
    try:
        with used(other), own_database():
            first.settings_dict["NAME"] = name
            settle()
            with used(first):
                yield other
    finally:
        # Making a test database, and dropping it, renames what its alias names.
        first.settings_dict["NAME"] = name


@contextmanager
def used(database: BaseDatabaseWrapper) -> Iterator[None]:
    """All that names the default database uses this one."""
    before = connections["default"]
    connections["default"] = database
    try:
        yield
    finally:
        connections["default"] = before
