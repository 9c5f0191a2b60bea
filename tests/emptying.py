"""
Empties the databases after tests that commit.

Django's own way makes each table's file anew on PostgreSQL, and each content type and permission on every
database: a tenth of a second, of which a suite of thousands has too many.
"""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

from django.db import connections, transaction
from django.test import TransactionTestCase

KEPT = {"django_content_type", "auth_permission"}
"""As migrations have left them: tests write neither."""


@cache
def tables(alias: str) -> list[str]:
    connection = connections[alias]
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return [connection.ops.quote_name(name) for name in sorted({*names} - KEPT)]


def empty(alias: str) -> None:
    connection = connections[alias]
    with (
        connection.constraint_checks_disabled(),
        transaction.atomic(using=alias),
        connection.cursor() as cursor,
    ):
        if connection.vendor == "postgresql":
            # As TRUNCATE has it: what a killed process has left to commit is to be seen, and to go.
            cursor.execute(f"LOCK TABLE {', '.join(tables(alias))} IN ACCESS EXCLUSIVE MODE")
        for name in tables(alias):
            cursor.execute(f"DELETE FROM {name}")


def empty_those_of(test: TransactionTestCase) -> None:
    for alias in test._databases_names(include_mirrors=False):
        empty(alias)


def instead_of_flushing():
    return patch.object(TransactionTestCase, "_fixture_teardown", empty_those_of)
