"""What the system checks say of partitions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection

from tests.partitions.conftest import NOT_HERE, PARTITIONS, names, sql

pytestmark = pytest.mark.django_db(transaction=True)
ONE_WRONG = [
    (1, "must be a dict or None"),
    ({"LENGTH": 1}, "unknown options: LENGTH"),
    ({"PERIOD": 3600}, "PERIOD is a datetime.timedelta"),
    ({"PERIOD": timedelta(minutes=1)}, "PERIOD is a datetime.timedelta"),
    ({"PERIOD": timedelta(hours=1, microseconds=1)}, "PERIOD is a datetime.timedelta"),
    ({"AHEAD": True}, "AHEAD is a number"),
    ({"AHEAD": 1}, "AHEAD is a number"),
]


@pytest.mark.parametrize(("value", "why"), ONE_WRONG)
def test_a_setting_that_makes_no_sense_is_an_error(found, settings, value, why):
    settings.IDEMPOTENCY_PARTITIONS = value
    assert "E029" in found()


@pytest.mark.skipif(connection.vendor == "postgresql", reason="is about the others")
def test_a_database_that_has_no_partitions_here_is_a_warning(found, settings):
    settings.IDEMPOTENCY_PARTITIONS = PARTITIONS
    assert "W015" in found()


@NOT_HERE
@pytest.mark.parametrize(
    ("level", "expected"), [(None, set()), ("READ_COMMITTED", set()), ("SERIALIZABLE", {"E029"})]
)
def test_an_isolation_level_that_refuses_every_claim_is_an_error(
    found, settings, monkeypatch, level, expected
):
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    settings.IDEMPOTENCY_PARTITIONS = PARTITIONS
    options = {"isolation_level": IsolationLevel[level]} if level else {}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert found() & {"E029", "W015"} == expected


@NOT_HERE
def test_a_table_without_partitions_is_a_warning_where_they_are_set(plain, found):
    assert "W015" in found(databases=["default"])
    assert "W015" not in found()


@NOT_HERE
def test_a_table_with_partitions_is_an_error_where_none_are_set(afresh, found, settings):
    assert not found(databases=["default"]) & {"E029", "W015"}
    settings.IDEMPOTENCY_PARTITIONS = None
    assert "E029" in found(databases=["default"])


@NOT_HERE
@pytest.mark.parametrize("left", [0, 2])
def test_too_few_partitions_ahead_are_a_warning(afresh, found, left):
    for name in sorted(names() - {"default", "legacy"})[left:]:
        sql(f"DROP TABLE idempotency_record_{name}")
    assert "W015" in found(databases=["default"])
