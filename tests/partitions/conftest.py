"""The worker's record table with partitions, and without again once a module's tests are over."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings

from idempotency.models import IdempotencyRecord
from idempotency.partitions.rotation import create
from idempotency.partitions.table import Partition, name_of, period_default
from tests.settings import VENDOR

PARTITIONS = {"PERIOD": timedelta(days=1), "AHEAD": 3}
NOT_HERE = pytest.mark.skipif(
    VENDOR not in ("postgresql", "pgbouncer"), reason="only PostgreSQL has partitions"
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/partitions/" in str(item.path).replace("\\", "/") and "check" not in item.path.name:
            item.add_marker(NOT_HERE)


def sql(statement, *values):
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def partitions(*options):
    """What the command prints."""
    output = StringIO()
    call_command("idempotency_partitions", *options, stdout=output, stderr=output)
    return output.getvalue().splitlines()


def told_by(*options):
    """What the command fails with."""
    with pytest.raises(CommandError) as failure:
        partitions(*options)
    return str(failure.value)


def names():
    rows = sql(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'idempotency_record'::regclass"
    )
    return {name.removeprefix("idempotency_record_") for (name,) in rows}


def period(days=0):
    """Of so many days from now."""
    return sql(f"SELECT {period_default(PARTITIONS['PERIOD'])}")[0][0] + days * 86400


def put_into(days, **which):
    """As if these records, or all, had been written so many days from now."""
    start = period(days)
    with connection.cursor() as cursor:
        create(cursor, Partition(name_of(start), start))
    ids = list(IdempotencyRecord.objects.filter(**which).values_list("pk", flat=True))
    sql("UPDATE idempotency_record SET period = %s WHERE id = ANY(%s)", start, ids)
    return name_of(start).removeprefix("idempotency_record_")


def convert():
    with override_settings(IDEMPOTENCY_PARTITIONS=PARTITIONS):
        return partitions("--convert")


def make_plain():
    with connection.schema_editor() as editor:
        editor.execute("DROP TABLE idempotency_record CASCADE")
        editor.create_model(IdempotencyRecord)


@pytest.fixture(scope="module")
def partitioned_module(django_db_setup, django_db_blocker):
    """Of its own accord no other test sees it: a worker's tests run one after the other."""
    if VENDOR not in ("postgresql", "pgbouncer"):
        yield
        return
    with django_db_blocker.unblock():
        convert()
    yield
    with django_db_blocker.unblock():
        make_plain()


@pytest.fixture
def moving_boundary(partitioned):
    """Each record is inserted in another period than the one before."""
    change = "ALTER TABLE idempotency_record ALTER COLUMN period SET DEFAULT "
    day = f"{period()} + 86400 * (nextval('moving') % 3)"
    sql("CREATE SEQUENCE moving")
    sql(change + day)
    yield
    sql(change + period_default(PARTITIONS["PERIOD"]))
    sql("DROP SEQUENCE moving")


@pytest.fixture
def setting(settings):
    settings.IDEMPOTENCY_PARTITIONS = PARTITIONS


@pytest.fixture
def partitioned(partitioned_module, setting, transactional_db):
    pass


@pytest.fixture
def afresh(setting, transactional_db):
    """A table with partitions for this test alone, which changes them."""
    convert()
    yield
    make_plain()


@pytest.fixture
def plain(setting, transactional_db):
    """A table of its own to convert."""
    yield
    make_plain()
