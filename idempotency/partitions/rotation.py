"""Making partitions of the periods to come, and dropping those of the past."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from idempotency import conf
from idempotency.models import OperationRun
from idempotency.partitions.locked import NeverFree, Patience
from idempotency.partitions.table import COLUMN, DEFAULT, IS_LIVE, Partition, Table, name_of, period_default
from idempotency.records.base import TABLE

MOST_CARRIED = 10_000
RUNS = OperationRun._meta.db_table
LIKE = "INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION"


class NotPartitioned(Exception):
    """The record table has no partitions."""


@dataclass(frozen=True)
class Done:
    """What was done, or would be; ``failed`` where it should have been and was not."""

    text: str
    failed: bool = False


@dataclass
class Rotation:
    """One pass over the partitions of one database. Several may run at once.

    A record that is running, of unknown outcome or not yet expired is never lost: a partition is dropped
    under a lock that nobody works beside, and what is left of these in it goes to the current period in the
    same transaction; where they are many, it stays.
    """

    patience: Patience
    dry_run: bool = False
    most_carried: int = MOST_CARRIED

    def __post_init__(self) -> None:
        options = conf.partitions()
        if options is None:
            raise ImproperlyConfigured("IDEMPOTENCY_PARTITIONS is not set.")
        self.period: timedelta = options["PERIOD"]
        self.ahead: int = options["AHEAD"]
        self.seconds = int(self.period.total_seconds())

    def run(self) -> Iterator[Done]:
        with connections[self.patience.using].cursor() as cursor:
            if Table(cursor).kind != "p":
                raise NotPartitioned
            if Table(cursor).seconds != self.seconds:
                yield self._change_period()
            yield from self._create(cursor)
            yield from self._drop(cursor)

    def _change_period(self) -> Done:
        """Of what is inserted from now on: a row keeps its period, and a period its beginning."""

        def step(cursor: Any) -> None:
            cursor.execute(
                f"ALTER TABLE ONLY {TABLE} ALTER COLUMN {COLUMN} SET DEFAULT {period_default(self.period)}"
            )

        return self._do(f"change the period to {self.period}", step, f"ONLY {TABLE} IN ACCESS EXCLUSIVE MODE")

    def _create(self, cursor: Any) -> Iterator[Done]:
        table = Table(cursor)
        now, there, strays = table.period_now(self.period), table.partitions, table.strays()
        starts = {partition.start for partition in there}
        for start in range(now, now + (self.ahead + 1) * self.seconds, self.seconds):
            if start in starts:
                continue
            partition = Partition(name_of(start), start)
            if start in strays:
                yield Done(
                    f"cannot create {partition.name}: records of its period are in {DEFAULT}, where "
                    "purge_idempotency deletes them when they have expired",
                )
                continue
            yield self._do(
                f"create {partition.name}",
                lambda cursor, partition=partition: create(cursor, partition),
                # Of two at once, the second then sees what the first has made.
                f"ONLY {TABLE} IN SHARE UPDATE EXCLUSIVE MODE",
            )

    def _drop(self, cursor: Any) -> Iterator[Done]:
        table = Table(cursor)
        now, later = table.period_now(self.period), int(conf.retention().total_seconds())
        for partition in table.partitions:
            if partition.start >= now:
                continue
            is_old = partition.start + self.seconds + later <= now
            most = self.most_carried if is_old else 0
            if table.survivors(partition.name, most) > most:
                yield Done(self._kept(table, partition))
                continue
            yield self._do(
                f"drop {partition.name}",
                lambda cursor, partition=partition, most=most: drop(cursor, partition, most),
                f"ONLY {TABLE} IN ACCESS EXCLUSIVE MODE",
            )

    def _kept(self, table: Table, partition: Partition) -> str:
        until = table.lives_until(partition.name)
        told = f"until {until:%Y-%m-%d %H:%M:%S%z}" if until else "until their outcomes are settled"
        return f"keep {partition.name}, which has records that are live or unfinished, {told}"

    def _do(self, what: str, step: Any, *locks: str) -> Done:
        if self.dry_run:
            return Done(f"would {what}")
        try:
            told = self.patience.change(step, *locks)
        except NeverFree as error:
            return Done(f"cannot {what}: {error}", failed=True)
        return Done(f"{what}{f': {told}' if told else ''}")


def create(cursor: Any, partition: Partition) -> str:
    table = Table(cursor)
    if partition.start in {other.start for other in table.partitions}:
        return "it is there by now"
    cursor.execute(f"CREATE TABLE {partition.name} (LIKE {TABLE} {LIKE})")
    cursor.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {partition.name} FOR VALUES IN ({partition.start})")
    return ""


def drop(cursor: Any, partition: Partition, most_carried: int) -> str:
    """With the whole table locked: whoever was at a record of it is done, and nobody else begins."""
    table, name = Table(cursor), partition.name
    if partition not in table.partitions:
        return "it is gone by now"
    cursor.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
    survivors = table.survivors(name, most_carried)
    if survivors > most_carried:
        return "not yet, a record of it is in use again"
    if survivors:
        columns = ", ".join(table.columns(name))
        cursor.execute(f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM {name} WHERE {IS_LIVE}")
    cursor.execute(f"DELETE FROM {RUNS} USING {name} WHERE record_id = {name}.id AND NOT {IS_LIVE}")
    cursor.execute(f"DROP TABLE {name}")
    return f"{survivors} unfinished or live records carried over" if survivors else ""
