"""What a purge of a million expired records does to eight processes that write guarded records.

One purge, held back every other window of time: clients never stop, and each pair of windows, with and
without it, sees the same machine. What the purge does not get done in its windows is not waited for.
"""

from __future__ import annotations

import multiprocessing
import sys
from array import array
from collections import Counter
from datetime import timedelta
from math import ceil
from statistics import median, quantiles
from threading import Event, Thread
from time import monotonic, perf_counter, sleep
from typing import Any
from uuid import uuid4

from django.db import connection

from benchmarks.filling import fill, settle_large
from benchmarks.models import Order
from benchmarks.views import COLUMNS, TABLE
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.purging import Purge
from idempotency.records import RecordGuard
from idempotency.responses import StoredResponse

CLIENTS, WARM_UP = 8, 3.0
FINGERPRINT, ANSWER = Fingerprint(b"x" * 16), StoredResponse(201, body=b"x" * 130)
PERIOD = f"{TABLE}_period"
Window = tuple[float, float]


def measure(expired: int, windows: int, seconds: float, drops: int) -> dict[str, Any]:
    fill(expired, expired=True)
    fill(expired)
    settle_large()
    print(f"{2 * expired} records filled", file=sys.stderr, flush=True)
    found = {"drop": drop_of_a_period(drops) if connection.vendor == "postgresql" else []}
    return found | beside_clients(windows, seconds)


def beside_clients(windows: int, seconds: float) -> dict[str, Any]:
    connection.close()
    context = multiprocessing.get_context("fork")
    stop, answers = context.Event(), context.SimpleQueue()
    clients = [context.Process(target=write, args=(stop, answers)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        sleep(WARM_UP)
        turns = Turns(windows, seconds)
        turns.play()
        stop.set()
        told = [answers.get() for _ in clients]
    finally:
        stop.set()
        for client in clients:
            client.join(30)
    calls = [call for moments, latencies, _ in told for call in zip(moments, latencies, strict=True)]
    failures = sum((failed for _, _, failed in told), Counter[str]())
    return summary(calls, turns) | {"failures": dict(failures)}


def write(stop: Any, answers: Any) -> None:
    """One client: a business write and its record, in one transaction, again and again."""
    moments, latencies, failures = array("d"), array("d"), Counter[str]()
    while not stop.is_set():
        name = str(uuid4())
        started = monotonic()
        try:
            key = ScopedKey(("auth.user", "42"), "POST orders/", name)
            with RecordGuard(key, FINGERPRINT, using="default", retention=timedelta(days=1)) as guard:
                Order.objects.create(product_id=1, customer_id=1, quantity=1, total_cents=700, reference=name)
                guard.complete(ANSWER)
        except Exception as error:
            failures[f"{type(error).__name__}: {error}"[:200]] += 1
        moments.append(started)
        latencies.append(monotonic() - started)
    connection.close()
    answers.put((moments, latencies, failures))


class Done(Exception):
    """There were as many windows as wanted."""


class Turns:
    """Windows of time without the purge and with it, in turn."""

    def __init__(self, windows: int, seconds: float) -> None:
        self.windows, self.seconds = windows, seconds
        self.without: list[Window] = []
        self.during: list[Window] = []
        self.rows: list[int] = []
        self._rows_before = 0

    def play(self) -> None:
        self._wait()
        # In the purge's own rests, which do not count as work that it rests for.
        purge = Purge("default", sleep=lambda seconds: self._rest(seconds, purge.counts))
        try:
            # The last window was cut short by the end of the rows: it is left out.
            self.ended = purge.delete_expired()
        except Done:
            self.ended = False
        self.size = purge.pace.size
        connection.close()

    def _wait(self) -> None:
        started = monotonic()
        sleep(self.seconds)
        self.without.append((started, monotonic()))
        self._started_at = monotonic()

    def _rest(self, seconds: float, counts: Counter[str]) -> None:
        sleep(seconds)
        now = monotonic()
        if now - self._started_at < self.seconds:
            return
        self.during.append((self._started_at, now))
        self.rows.append(counts["deleted"] - self._rows_before)
        self._rows_before = counts["deleted"]
        if len(self.during) == self.windows:
            raise Done
        self._wait()


def summary(calls: list[tuple[float, float]], turns: Turns) -> dict[str, Any]:
    without = [inside(calls, window) for window in turns.without[: len(turns.during)]]
    during = [inside(calls, window) for window in turns.during]
    ratios = [percentile(one, 99) / percentile(base, 99) for one, base in zip(during, without, strict=True)]
    low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    rates = [rows / (end - start) for rows, (start, end) in zip(turns.rows, turns.during, strict=True)]
    return {
        "without": shown(without, turns.without),
        "during": shown(during, turns.during),
        "windows": [[percentile(one, 99) * 1e3 for one in kind] for kind in (without, during)],
        "ratio": middle,
        "quartiles": (low, high),
        "rows_per_second": median(rates),
        "purged": sum(turns.rows),
        "size": turns.size,
    }


def inside(calls: list[tuple[float, float]], window: Window) -> list[float]:
    return sorted(latency for moment, latency in calls if window[0] <= moment < window[1])


def percentile(ordered: list[float], percent: int) -> float:
    return ordered[ceil(len(ordered) * percent / 100) - 1]


def shown(kind: list[list[float]], windows: list[Window]) -> dict[str, float]:
    every = sorted(latency for one in kind for latency in one)
    seconds = sum(end - start for start, end in windows[: len(kind)])
    found = {f"p{percent}": percentile(every, percent) * 1e3 for percent in (50, 99)}
    return found | {"worst": every[-1] * 1e3, "per_second": len(every) / seconds}


def drop_of_a_period(times: int) -> list[tuple[float, float]]:
    """Milliseconds for which dropping the expired half keeps others from the table, and until its files are
    gone too: a partition of a table of the record's shape by ranges of the expiry, made here."""
    found = []
    columns = ", ".join(COLUMNS)
    with connection.cursor() as cursor:
        for _ in range(times):
            cursor.execute(
                f"CREATE TABLE {PERIOD} (LIKE {TABLE} INCLUDING DEFAULTS INCLUDING IDENTITY) "
                "PARTITION BY RANGE (expires_at)"
            )
            cursor.execute(f"CREATE UNIQUE INDEX ON {PERIOD} (key_digest, scope, expires_at)")
            for index in ("state, expires_at", "created_at"):
                cursor.execute(f"CREATE INDEX ON {PERIOD} ({index})")
            cursor.execute(
                f"CREATE TABLE {PERIOD}_old PARTITION OF {PERIOD} FOR VALUES FROM (MINVALUE) TO (now())"
            )
            cursor.execute(
                f"INSERT INTO {PERIOD} ({columns}) SELECT {columns} FROM {TABLE} WHERE expires_at < now()"
            )
            with Reader() as reader:
                started = perf_counter()
                cursor.execute(f"DROP TABLE {PERIOD}_old")
                whole = perf_counter() - started
            found.append((reader.longest * 1e3, whole * 1e3))
            cursor.execute(f"DROP TABLE {PERIOD}")
    return found


class Reader:
    """Reads the table again and again on a connection of its own; ``longest`` is what it waited at most."""

    def __enter__(self) -> Reader:
        self.longest, self._is_over, self._begun = 0.0, Event(), Event()
        self._thread = Thread(target=self._read)
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _read(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT FROM {PERIOD} LIMIT 0")
            self._begun.set()
            while not self._is_over.is_set():
                started = perf_counter()
                cursor.execute(f"SELECT FROM {PERIOD} LIMIT 0")
                self.longest = max(self.longest, perf_counter() - started)
        connection.close()
