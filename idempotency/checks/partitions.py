"""Whether processes and the record table agree about partitions, and there are some for the days to come."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency import conf
from idempotency.checks.urlconf import record_aliases
from idempotency.exceptions import WITHOUT_SETTING
from idempotency.models import IdempotencyRecord
from idempotency.partitions.table import Table

WRONG, DOUBTFUL = "idempotency.E029", "idempotency.W015"
RUN_IT = "Run `manage.py idempotency_partitions`, from cron too."


def check_partitions() -> Iterator[CheckMessage]:
    try:
        if conf.partitions() is None:
            return
    except ImproperlyConfigured as error:
        yield Error(str(error), id=WRONG)
        return
    for alias in record_aliases():
        if alias in connections:
            yield from check_database(alias)


def check_database(alias: str) -> Iterator[CheckMessage]:
    connection = connections[alias]
    if connection.vendor != "postgresql":
        yield Warning(
            f"IDEMPOTENCY_PARTITIONS means nothing to {connection.display_name} ({alias!r}).",
            hint="Leave it out, and let purge_idempotency delete what has expired.",
            id=DOUBTFUL,
        )
    elif has_other_isolation(connection):
        yield Error(
            f"{alias!r} has an isolation level that refuses claims, since its records have partitions.",
            hint='Leave "isolation_level" out of its OPTIONS (READ COMMITTED is Django\'s default).',
            id=WRONG,
        )


def has_other_isolation(connection: BaseDatabaseWrapper) -> bool:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    options = connection.settings_dict.get("OPTIONS") or {}
    level = options.get("isolation_level")
    return level is not None and level != IsolationLevel.READ_COMMITTED


def check_partitioned_tables(databases: Collection[str]) -> Iterator[CheckMessage]:
    """PostgreSQL only. Asks the database, and knows only a table that is there already."""
    for alias in databases:
        if connections[alias].vendor != "postgresql" or not router.allow_migrate_model(
            alias, IdempotencyRecord
        ):
            continue
        try:
            yield from check_table(alias)
        except ImproperlyConfigured:
            return  # reported already


def check_table(alias: str) -> Iterator[CheckMessage]:
    options = conf.partitions()
    with connections[alias].cursor() as cursor:
        table = Table(cursor)
        kind = table.kind
        if options is None:
            if kind == "p":
                yield Error(f"{alias!r}: {WITHOUT_SETTING}", id=WRONG)
            return
        if kind == "r":
            yield Warning(
                f"IDEMPOTENCY_PARTITIONS is set, and the record table in {alias!r} has none.",
                hint="Run `manage.py idempotency_partitions --convert` at a quiet time.",
                id=DOUBTFUL,
            )
        if kind != "p":
            return
        now, starts = table.period_now(options["PERIOD"]), {partition.start for partition in table.partitions}
    if now not in starts:
        yield Warning(
            f"{alias!r} has no partition for the records of now: they go where rows are deleted one by one.",
            hint=RUN_IT,
            id=DOUBTFUL,
        )
    elif (ahead := sum(start > now for start in starts)) < conf.FEWEST_AHEAD:
        yield Warning(f"{alias!r} has {ahead} partitions ahead of now.", hint=RUN_IT, id=DOUBTFUL)
