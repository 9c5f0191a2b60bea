"""Deleting records, or only their bodies, tokens, ids, leases and messages, in bounded batches beside live
traffic."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import DatabaseError, connections, transaction
from django.db.models import Max, Min, QuerySet

from idempotency.database import is_conflict
from idempotency.models import (
    FailedMessage,
    IdempotencyRecord,
    IdempotencyToken,
    LockFence,
    LockLease,
    OperationRun,
    OutboxMessage,
    RecordQuerySet,
    UniqueId,
)
from idempotency.pace import Pace
from idempotency.responses import BodyState

ATTEMPTS = 5
# Primary keys that one statement looks at, in a walk that no index serves.
WINDOW = 10_000
# Lower bounds lag behind: SQLite compares times as texts, in which .120 and .120000 differ.
LAG = timedelta(seconds=1)

Change = Literal["deleted", "dropped", "tokens", "ids", "leases", "fences", "outbox", "failures"]
# Nothing but deletion can happen to them. All others may be taken up again by a newcomer, in place: whether
# they are due is asked once they are held.
NEVER_TAKEN_UP: set[Change] = {"tokens", "outbox"}

# Given `WHERE id IN (…)`, InnoDB may scan a table of no great length: it then waits for rows that
# others hold and, under REPEATABLE READ, locks the gaps too, so that nobody can insert. A join that
# reads the keys first looks up each row by itself.
MYSQL_ROWS = (
    "JSON_TABLE(%s, '$[*]' COLUMNS (id BIGINT PATH '$')) AS named "
    "STRAIGHT_JOIN {table} FORCE INDEX (PRIMARY) ON {table}.id = named.id"
)
MYSQL_HOLD = f"SELECT {{table}}.id FROM {MYSQL_ROWS} FOR UPDATE SKIP LOCKED"
MYSQL_DELETE = f"DELETE {{table}} FROM {MYSQL_ROWS}"
MYSQL_DROP = f"UPDATE {MYSQL_ROWS} SET body = NULL, headers = '', body_state = {BodyState.DROPPED:d}"


@dataclass
class Purge:
    """One run over the records of one database, and what other mechanisms keep there.

    Each batch is a short transaction of its own, and nothing is held between two. It has ``batch_size``
    rows at most (10,000 where that is None), and fewer where so many take longer than 50 ms. After each,
    live traffic has the database to itself for a while: see ``Pace``. Rows that another
    transaction has locked are left to it, where the database can skip them. The methods return
    whether they came to the end; False means that ``seconds`` were over, with rows left. At least one
    batch is done, however short the time. Database errors pass through; what was done stays done.

    ``counts`` has the records ``deleted``, bodies ``dropped``, ``tokens``, ``ids``, ``leases``, ``fences``,
    published messages of the ``outbox`` and ``failures`` of messages deleted, rows ``skipped`` because
    somebody else held them, and those found ``unfinished`` (running, or outcome unknown) by ``erase()``.
    """

    using: str
    batch_size: int | None = None
    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    on_progress: Callable[[Counter[str]], None] = lambda counts: None
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._started_at = self.clock()
        self._begun = False
        self.pace = Pace(self.batch_size, clock=self.clock, sleep=self.sleep)

    @property
    def records(self) -> RecordQuerySet:
        return IdempotencyRecord.objects.using(self.using)

    def expired(self) -> RecordQuerySet:
        return self.records.expired()

    def expired_by_state(self) -> dict[int, RecordQuerySet]:
        """The index has the rows of one state in order; those of several are sorted anew for every batch."""
        return {state: self.expired().filter(state=state) for state in IdempotencyRecord.DONE}

    def droppable(self, age: timedelta) -> RecordQuerySet:
        """Live ones only: an expired record goes as a whole."""
        return self.records.live().with_droppable_body(age)

    def forgettable(self) -> Iterator[tuple[Change, QuerySet[Any], str]]:
        """What mechanisms other than records need not remember any longer, and by which column."""
        yield "tokens", IdempotencyToken.objects.using(self.using).expired(), "kept_until"
        yield "ids", UniqueId.objects.using(self.using).expired(), "kept_until"
        yield "leases", LockLease.objects.using(self.using).expired(), "expires_at"
        yield "fences", LockFence.objects.using(self.using).idle(), "taken_at"
        yield "outbox", OutboxMessage.objects.using(self.using).forgettable(), "kept_until"
        yield "failures", FailedMessage.objects.using(self.using).forgettable(), "kept_until"

    def delete_expired(self) -> bool:
        return all(self._sweep(rows, "expires_at", "deleted") for rows in self.expired_by_state().values())

    def delete_forgettable(self) -> bool:
        return all(self._sweep(rows, column, change) for change, rows, column in self.forgettable())

    def drop_bodies(self, age: timedelta) -> bool:
        return self._sweep(self.droppable(age), "created_at", "dropped")

    def erase(self, kind: str, identifier: str, *, dry_run: bool = False) -> bool:
        """Delete one principal's completed records, live ones too: their keys are free again."""
        rows = self.records.of_principal(kind, identifier)
        for low in self._windows():
            if self._time_is_up():
                return False
            window = rows.filter(pk__gte=low, pk__lt=low + WINDOW)
            states = dict(window.values_list("pk", "state"))
            pks = [pk for pk, state in states.items() if state in IdempotencyRecord.DONE]
            self.counts["unfinished"] += len(states) - len(pks)
            self._begun = True
            if dry_run:
                self.counts["deleted"] += len(pks)
                continue
            while pks:
                batch, pks = pks[: self.pace.size], pks[self.pace.size :]
                self._process(self.records.filter(state__in=IdempotencyRecord.DONE), batch, "deleted")
        return True

    def _windows(self) -> Iterator[int]:
        ends = self.records.aggregate(first=Min("pk"), last=Max("pk"))
        if ends["first"] is not None:
            yield from range(ends["first"], ends["last"] + 1, WINDOW)

    def _sweep(self, rows: QuerySet[Any], column: str, change: Change) -> bool:
        due = rows.model._default_manager.using(self.using) if change in NEVER_TAKEN_UP else rows
        reached: datetime | None = None
        skipped: dict[int, datetime] = {}
        while batch := self._next_batch(rows, column, reached, skipped):
            if self._time_is_up():
                return False
            held = self._process(due, list(batch), change)
            reached = max(batch.values())
            skipped |= {pk: at for pk, at in batch.items() if pk not in held}
            skipped = {pk: at for pk, at in skipped.items() if at >= reached - LAG}
        return True

    def _next_batch(
        self, rows: QuerySet[Any], column: str, reached: datetime | None, skipped: dict[int, datetime]
    ) -> dict[int, datetime]:
        """The next rows in the index's order, found without locks."""
        if reached is not None:
            # Not from the start again, past all that was deleted and is not yet vacuumed.
            rows = rows.filter(**{f"{column}__gte": reached - LAG})
        rows = rows.exclude(pk__in=list(skipped)).order_by(column)
        return dict(rows.values_list("pk", column)[: self.pace.size])

    def _process(self, due: QuerySet[Any], pks: list[int], change: Change) -> set[int]:
        """Change those of the rows that are due and that nobody else holds; say which."""
        for attempt in range(1, ATTEMPTS + 1):
            started_at = self.clock()
            try:
                with transaction.atomic(using=self.using):
                    held, changed = self._hold_and_write(due, pks, change)
                    if change == "deleted":
                        self._delete_runs(pks)
                break
            except DatabaseError as error:
                if attempt == ATTEMPTS or not is_conflict(error):
                    raise
        self.pace.adapt(len(pks), self.clock() - started_at)
        self._begun = True
        self.counts[change] += changed
        self.counts["skipped"] += len(pks) - len(held)
        self.on_progress(self.counts)
        self.pace.rest(self._seconds_left())
        return held

    def _hold_and_write(self, due: QuerySet[Any], pks: list[int], change: Change) -> tuple[set[int], int]:
        """Lock the rows that are free and change them. Without SKIP LOCKED, the write is the first
        statement: on SQLite it then waits its turn, where an upgrade from reading would fail."""
        connection = connections[self.using]
        if not connection.features.has_select_for_update_skip_locked:
            return set(pks), self._write(due, pks, change)
        if connection.vendor == "mysql":
            return self._hold_and_write_mysql(due, pks, change)
        rows = due.filter(pk__in=pks)
        held = set(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        return held, self._write(due, held, change)

    def _delete_runs(self, pks: Collection[int]) -> None:
        """Of records that are gone; few have any. By primary key, as InnoDB would lock others on its way."""
        runs = OperationRun.objects.using(self.using)
        with_run = set(runs.filter(pk__in=pks).values_list("pk", flat=True))
        for pk in with_run - set(self.records.filter(pk__in=with_run).values_list("pk", flat=True)):
            runs.filter(pk=pk).delete()

    def _write(self, due: QuerySet[Any], pks: Collection[int], change: Change) -> int:
        if change == "dropped":
            return self.records.filter(pk__in=pks).drop_bodies()
        return due.filter(pk__in=pks).delete()[0]

    def _hold_and_write_mysql(
        self, due: QuerySet[Any], pks: list[int], change: Change
    ) -> tuple[set[int], int]:
        table = due.model._meta.db_table
        write = MYSQL_DROP if change == "dropped" else MYSQL_DELETE
        with connections[self.using].cursor() as cursor:
            cursor.execute(MYSQL_HOLD.format(table=table), [json.dumps(pks)])
            held = {pk for (pk,) in cursor.fetchall()}
            if change not in NEVER_TAKEN_UP:
                held = set(due.filter(pk__in=held).values_list("pk", flat=True))
            cursor.execute(write.format(table=table), [json.dumps(list(held))])
            return held, int(cursor.rowcount)

    def _seconds_left(self) -> float | None:
        return None if self.seconds is None else self.seconds - (self.clock() - self._started_at)

    def _time_is_up(self) -> bool:
        left = self._seconds_left()
        return self._begun and left is not None and left <= 0
