"""
Empties the databases after tests that commit.

Django's own way makes each table's file anew on PostgreSQL, and each content type and permission on every
database: a tenth of a second, of which a suite of thousands has too many.
"""

from __future__ import annotations

from unittest.mock import patch

from django.db import connections, transaction
from django.test import TransactionTestCase

KEPT = {"django_content_type", "auth_permission"}
"""As migrations have left them: tests write neither."""


def tables(connection) -> list[str]:
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    return [connection.ops.quote_name(name) for name in sorted({*names} - KEPT)]


def empty(connection, names: list[str]) -> None:
    with (
        connection.constraint_checks_disabled(),
        transaction.atomic(using=connection.alias),
        connection.cursor() as cursor,
    ):
        if connection.vendor == "postgresql":
            # As TRUNCATE has it: what a killed process has left to commit is to be seen, and to go.
            cursor.execute(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")
        for name in names:
            cursor.execute(f"DELETE FROM {name}")


def instead_of_flushing():
    """A patch, to be made when there are databases."""
    found = {alias: tables(connections[alias]) for alias in connections}

    def empty_all(test):
        for alias in test._databases_names(include_mirrors=False):
            empty(connections[alias], found[alias])

    return patch.object(TransactionTestCase, "_fixture_teardown", empty_all)
