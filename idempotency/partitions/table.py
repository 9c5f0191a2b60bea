"""What the database says of the record table and its partitions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from idempotency.records.base import IS_DONE, TABLE

DEFAULT = f"{TABLE}_default"
"""Where rows go whose period has no partition."""
LEGACY = f"{TABLE}_legacy"
"""What was there before there were partitions, as one of them: that of period 0."""
COLUMN = "period"
"""Of the database's alone: the second since 1970 in which the period begins that a row was inserted in."""

# Of one moment in all statements of a transaction: its beginning.
IS_LIVE = f"(NOT {IS_DONE} OR expires_at > transaction_timestamp())"
PARTITIONS = f"""
    SELECT child.relname, pg_get_expr(child.relpartbound, child.oid)
    FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid WHERE inhparent = '{TABLE}'::regclass
"""
PERIOD_DEFAULT = f"""
    SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
    JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
    WHERE adrelid = '{TABLE}'::regclass AND attname = '{COLUMN}'
"""


@dataclass(frozen=True)
class Partition:
    name: str
    start: int
    """Of its period, in seconds since 1970."""

    @property
    def period(self) -> str:
        if self.start == 0:
            return "before there were partitions"
        return f"{datetime.fromtimestamp(self.start, UTC):%Y-%m-%d %H:%M:%S} UTC"


def name_of(start: int) -> str:
    return f"{TABLE}_{datetime.fromtimestamp(start, UTC):%Y%m%d_%H%M%S}"


def period_default(period: timedelta) -> str:
    seconds = int(period.total_seconds())
    return f"(floor(extract(epoch from statement_timestamp()) / {seconds}) * {seconds})::bigint"


class Table:
    """The record table, seen through one cursor."""

    def __init__(self, cursor: Any) -> None:
        self.cursor = cursor

    @property
    def kind(self) -> str | None:
        """``p``: partitioned, ``r``: not, None: there is no such table."""
        kind: str | None = self._value(
            f"SELECT relkind::text FROM pg_class WHERE oid = to_regclass('{TABLE}')"
        )
        return kind

    @property
    def seconds(self) -> int | None:
        """The length of the period that rows are inserted with."""
        found = re.search(r"/ \(?'?(\d+)", str(self._value(PERIOD_DEFAULT)))
        return int(found[1]) if found else None

    @property
    def partitions(self) -> list[Partition]:
        """In the order of their periods; without that of rows whose period has none."""
        self.cursor.execute(PARTITIONS)
        found = [(name, re.search(r"-?\d+", bound)) for name, bound in self.cursor.fetchall()]
        return sorted((Partition(name, int(start[0])) for name, start in found if start), key=_start)

    def period_now(self, period: timedelta) -> int:
        return int(self._value(f"SELECT {period_default(period)}"))

    def strays(self) -> set[int]:
        """Periods of which there are rows in the default partition."""
        self.cursor.execute(f"SELECT DISTINCT {COLUMN} FROM {DEFAULT}")
        return {start for (start,) in self.cursor.fetchall()}

    def survivors(self, name: str, most: int) -> int:
        """How many records of a partition may not be dropped, counted up to ``most + 1``."""
        return int(
            self._value(
                f"SELECT count(*) FROM (SELECT FROM {name} WHERE {IS_LIVE} LIMIT {most + 1}) AS survivors"
            )
        )

    def lives_until(self, name: str) -> datetime | None:
        until: datetime | None = self._value(f"SELECT max(expires_at) FROM {name} WHERE {IS_DONE}")
        return until

    def columns(self, name: str) -> list[str]:
        """All but the period, quoted."""
        self.cursor.execute(
            "SELECT quote_ident(attname) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> %s "
            "ORDER BY attnum",
            (name, COLUMN),
        )
        return [column for (column,) in self.cursor.fetchall()]

    def _value(self, sql: str) -> Any:
        self.cursor.execute(sql)
        row = self.cursor.fetchone()
        return row[0] if row else None


def _start(partition: Partition) -> int:
    return partition.start
