"""Where the time of a request goes: statement by statement, and Python by function.

Statements are timed around Django's cursors and commits, so a statement's figure is its round trip, the
database's work and the driver; BEGIN travels with the first statement of its transaction. What is left
is Python, whose shares come from cProfile: it makes small functions look dearer than they are, so they
are shares of the Python time measured without it.
"""

from __future__ import annotations

import cProfile
import pstats
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any

from django.db import connection

from benchmarks.calls import Caller
from benchmarks.database import settle
from benchmarks.variants import OWN, Variant
from benchmarks.wsgi import application

Cells = list[tuple[str, ...]]
BLOCK = 50
PLACES = {
    "/idempotency/records/": "idempotency.records",
    "/idempotency/": "idempotency, the rest",
    "/rest_framework/": "rest_framework",
    "/django/db/": "django.db",
    "/django/": "django, the rest",
    "/benchmarks/": "the view",
}
LONGEST_LIST = 25


def measure(requests: int) -> list[Cells]:
    caller = Caller(application)
    variants = [variant for variant in OWN.variants if variant.letter in "acd"]
    for variant in variants:
        caller.block(variant, 50)
    settle()
    statements = {variant: Statements() for variant in variants}
    totals: dict[Variant, list[float]] = defaultdict(list)
    for _ in range(max(1, requests // BLOCK)):
        for variant in variants:
            with statements[variant].timed():
                totals[variant] += caller.block(variant, BLOCK)
    profiles = {variant: profiled(caller, variant, requests) for variant in variants}
    python = {
        variant: median(totals[variant]) - statements[variant].seconds_per_request(len(totals[variant]))
        for variant in variants
    }
    tables = [[("one round trip (SELECT 1 in a transaction)", "µs"), ("", f"{round_trip() * 1e6:.0f}")]]
    tables += [statements[variant].cells(variant, len(totals[variant])) for variant in variants]
    tables.append(places(profiles, python))
    tables += [functions(profiles[variant], variant, python[variant]) for variant in variants[1:]]
    return tables


def round_trip() -> float:
    """The median of many smallest statements, by the driver's own cursor."""
    connection.set_autocommit(False)
    with connection.connection.cursor() as cursor:
        taken = [timed(lambda: cursor.execute("SELECT 1")) for _ in range(2000)]
    connection.rollback()
    connection.set_autocommit(True)
    return median(taken)


def timed(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


class Statements:
    """Seconds by statement."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        commit = connection._commit

        def timed_commit() -> None:
            self.taken["COMMIT"].append(timed(commit))

        connection._commit = timed_commit
        try:
            with connection.execute_wrapper(self.execute):
                yield
        finally:
            del connection._commit

    def execute(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        started = perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            self.taken[summary(sql)].append(perf_counter() - started)

    def seconds_per_request(self, requests: int) -> float:
        return sum(median(taken) * len(taken) / requests for taken in self.taken.values())

    def cells(self, variant: Variant, requests: int) -> Cells:
        rows = [
            (f"  {name}", f"{len(taken) / requests:g}", f"{median(taken) * 1e6:.0f}")
            for name, taken in self.taken.items()
        ]
        whole = f"{self.seconds_per_request(requests) * 1e6:.0f}"
        return [(f"({variant.letter}) {variant.label}", "times", "µs"), *rows, ("  together", "", whole)]


def summary(sql: str) -> str:
    """Enough of a statement to tell it from the others of the request."""
    words = sql.replace('"', "").split()
    if words[0] in ("SAVEPOINT", "RELEASE"):
        return words[0]
    names = [word for word in words if word.startswith(("benchmarks_", "idempotency_record", "pg_try"))]
    return " ".join([words[0], *(name.split(".")[0].split("(")[0] for name in names[-1:])])


def profiled(caller: Caller, variant: Variant, requests: int) -> pstats.Stats:
    profile = cProfile.Profile()
    profile.enable()
    caller.block(variant, requests)
    profile.disable()
    return pstats.Stats(profile)


def place(function: tuple[str, int, str]) -> str | None:
    """Whose a function is; None for one that waits for the database."""
    path, _, name = function
    if path == "~":
        waits = ("cursor' objects", "psycopg2", "psycopg_binary", "'commit' of", "sqlite3.C")
        return None if any(word in name for word in waits) else "built-in functions"
    if "/psycopg/" in path or "/MySQLdb/" in path:
        return None
    return next((label for part, label in PLACES.items() if part in path), "the standard library")


def places(profiles: dict[Variant, pstats.Stats], python: dict[Variant, float]) -> Cells:
    """Python's own time by whose it is."""
    shares: dict[str, dict[Variant, float]] = defaultdict(dict)
    for variant, stats in profiles.items():
        own: dict[str, float] = defaultdict(float)
        for function, (_, _, seconds, _, _) in stats.stats.items():  # type: ignore[attr-defined]
            if (label := place(function)) is not None:
                own[label] += seconds
        whole = sum(own.values())
        for label, seconds in own.items():
            shares[label][variant] = seconds / whole * python[variant] * 1e6
    rows = [
        (f"  {label}", *(f"{found.get(variant, 0):.0f}" for variant in profiles))
        for label, found in sorted(shares.items(), key=lambda item: -sum(item[1].values()))
    ]
    whole_row = ("  together", *(f"{python[variant] * 1e6:.0f}" for variant in profiles))
    return [("Python, µs", *(f"({variant.letter})" for variant in profiles)), *rows, whole_row]


def functions(stats: pstats.Stats, variant: Variant, python: float) -> Cells:
    """The package's functions, with what they call, database included."""
    requests = stats.get_stats_profile().func_profiles["call"].ncalls.split("/")[0]
    rows = []
    for (path, line, name), (_, calls, own, whole, _) in stats.stats.items():  # type: ignore[attr-defined]
        if "/idempotency/" in path:
            where = f"{path.rpartition('/idempotency/')[2]}:{line} {name}"
            rows.append((whole, where, calls / int(requests), own))
    rows.sort(reverse=True)
    cells = [
        (f"  {where}", f"{calls:g}", f"{own / int(requests) * 1e6:.0f}", f"{whole / int(requests) * 1e6:.0f}")
        for whole, where, calls, own in rows[:LONGEST_LIST]
    ]
    return [(f"({variant.letter}) under cProfile", "calls", "own µs", "with what it calls"), *cells]
