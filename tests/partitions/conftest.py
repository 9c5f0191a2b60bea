"""The worker's record table with partitions, and without again once a module's tests are over."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from idempotency.models import IdempotencyRecord
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
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def partitions(*options):
    """What the command prints."""
    output = StringIO()
    call_command("idempotency_partitions", *options, stdout=output, stderr=output)
    return output.getvalue().splitlines()


def names():
    rows = sql(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'idempotency_record'::regclass"
    )
    return {name.removeprefix("idempotency_record_") for (name,) in rows}


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
def setting(settings):
    settings.IDEMPOTENCY_PARTITIONS = PARTITIONS


@pytest.fixture
def partitioned(partitioned_module, setting, transactional_db):
    pass


@pytest.fixture
def plain(setting, transactional_db):
    """A table of its own to convert."""
    yield
    make_plain()
