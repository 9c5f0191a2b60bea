"""What a change of status costs: on rows that nobody else wants, and on one that eight processes want.

By hand is what careful teams write: lock, look, save; and the same with a log whose unique constraint
tells duplicates, which is what a transition does.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from uuid import uuid4

from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext

from benchmarks.database import settle
from benchmarks.models import GuardedStatus, LockedStatus, PlainLog, PlainStatus

PROCESSES = 8
Change = Callable[[Any, str], None]


def save(row: PlainStatus, to: str) -> None:
    row.status = to
    row.save()


def update(row: PlainStatus, to: str) -> None:
    assert PlainStatus.objects.filter(pk=row.pk, status="open").update(status=to)


def by_hand(row: PlainStatus, to: str) -> None:
    with transaction.atomic():
        locked = PlainStatus.objects.select_for_update().get(pk=row.pk)
        assert locked.status == "open"
        locked.status = to
        locked.save(update_fields=["status"])


def by_hand_with_log(row: PlainStatus, to: str) -> None:
    with transaction.atomic():
        locked = PlainStatus.objects.select_for_update().get(pk=row.pk)
        assert locked.status == "open"
        PlainLog.objects.create(row=locked, event_id=str(uuid4()), from_status=locked.status, to_status=to)
        locked.status = to
        locked.save(update_fields=["status"])


def transition(row: Any, to: str) -> None:
    assert row.transition_to(to, event_id=uuid4()) == "applied"


def guard(row: LockedStatus, to: str) -> None:
    with row.transition(to, event_id=uuid4()):
        pass


VARIANTS: tuple[tuple[str, type[models.Model], Change], ...] = (
    ("plain save()", PlainStatus, save),
    ("UPDATE … WHERE status = …, no log", PlainStatus, update),
    ("by hand: lock, look, save", PlainStatus, by_hand),
    ("by hand, with a log", PlainStatus, by_hand_with_log),
    ("transition_to(), nothing is read", GuardedStatus, transition),
    ("transition_to(), with a hook", LockedStatus, transition),
    ("with transition()", LockedStatus, guard),
)
FIGHTS = (
    ("by hand: lock, look, save", PlainStatus, by_hand),
    ("by hand, with a log", PlainStatus, by_hand_with_log),
    ("transition_to(), nothing is read", GuardedStatus, transition),
    ("transition_to(), with a hook", LockedStatus, transition),
)


def measure(rounds: int, block: int, seconds: float) -> dict[str, Any]:
    return {"alone": alone(rounds, block), "fight": fight(max(3, rounds // 3), seconds)}


def alone(rounds: int, block: int) -> list[dict[str, Any]]:
    """Microseconds and statements of one change, each of a row of its own. Blocks of all variants take
    turns, in a new order each round."""
    settle()
    times: dict[str, list[float]] = {name: [] for name, *_ in VARIANTS}
    for _ in range(rounds):
        for name, model, change in random.sample(VARIANTS, len(VARIANTS)):
            rows: Any = model._default_manager.bulk_create([model() for _ in range(block)])
            if connection.vendor != "postgresql":
                # Only PostgreSQL and SQLite tell the keys; all that are open are this block's.
                rows = model._default_manager.filter(status="open")
            fresh = list(rows)
            times[name].append(median(timed(change, row) for row in fresh))
    first = VARIANTS[0][0]
    found = []
    for name, model, change in VARIANTS:
        ratios = [one / base for one, base in zip(times[name], times[first], strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        row = {"name": name, "microseconds": median(times[name]) * 1e6, "ratio": middle}
        found.append({**row, "quartiles": (low, high), "statements": statements(model, change)})
    return found


def timed(change: Change, row: Any) -> float:
    started = perf_counter()
    change(row, "closed")
    return perf_counter() - started


def statements(model: type[models.Model], change: Change) -> int:
    row = model._default_manager.create()
    with CaptureQueriesContext(connection) as queries:
        change(row, "closed")
    return len(queries)


def fight(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Changes a second of one row by eight processes, each variant in turn."""
    rows = {model: model._default_manager.create().pk for _, model, _ in FIGHTS}
    rates: dict[str, list[float]] = {name: [] for name, *_ in FIGHTS}
    settle()
    connection.close()
    context = multiprocessing.get_context("fork")
    for _ in range(rounds):
        for name, model, change in random.sample(FIGHTS, len(FIGHTS)):
            jobs = (model, rows[model], change, seconds)
            rates[name].append(at_once(context, jobs) / seconds)
    first = FIGHTS[1][0]
    found = []
    for name, *_ in FIGHTS:
        low, middle, high = quantiles(
            [rate / base for rate, base in zip(rates[name], rates[first], strict=True)], n=4
        )
        found.append({"name": name, "rate": median(rates[name]), "ratio": middle, "quartiles": (low, high)})
    return found


def at_once(context: Any, job: tuple[Any, ...]) -> int:
    """How many changes eight processes make together."""
    barrier, counts = context.Barrier(PROCESSES), context.SimpleQueue()
    processes = [context.Process(target=contend, args=(barrier, counts, *job)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    done = sum(counts.get() for _ in processes)
    for process in processes:
        process.join()
    return done


def contend(barrier: Any, counts: Any, model: Any, pk: int, change: Change, seconds: float) -> None:
    row = model._default_manager.get(pk=pk)
    barrier.wait(60)
    done, end = 0, perf_counter() + seconds
    while perf_counter() < end:
        change(row, "open")
        done += 1
    connection.close()
    counts.put(done)
