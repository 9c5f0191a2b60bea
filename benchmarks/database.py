"""The benchmark's own database: made from nothing, filled, and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from benchmarks.calls import PRODUCTS


@contextmanager
def own_database() -> Iterator[None]:
    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        fill()
        yield
    finally:
        drop(name)


def fill() -> None:
    from django.contrib.auth.models import User

    from benchmarks.authentication import CUSTOMER
    from benchmarks.models import Product
    from benchmarks.views import KNOWN, insert_record_of_same_bytes

    # One of the other packages has a foreign key to it.
    User.objects.create(pk=CUSTOMER, username="customer")
    Product.objects.bulk_create(
        Product(pk=number, name=f"Product {number}", price_cents=number, stock=10**9)
        for number in range(1, PRODUCTS + 1)
    )
    insert_record_of_same_bytes(KNOWN)


def settle() -> None:
    """Up-to-date statistics, and no vacuum in the middle of a measurement."""
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"ALTER TABLE {connection.ops.quote_name(table)} SET (autovacuum_enabled = off)")
        cursor.execute("VACUUM ANALYZE")


def drop(name: str) -> None:
    connection.close()
    if connection.vendor == "postgresql":
        # A server's workers may take a moment to go.
        with connection.creation._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE {connection.ops.quote_name(name)} WITH (FORCE)")
    else:
        connection.creation.destroy_test_db(name, verbosity=0)


def versions() -> dict[str, Any]:
    """What was measured, as the servers and libraries themselves say."""
    import platform

    import django
    import rest_framework

    found = {"Python": platform.python_version(), "Django": django.__version__}
    found["DRF"] = rest_framework.__version__
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            driver = connection.Database
            found[driver.__name__] = driver.__version__.split()[0]
            cursor.execute("SELECT current_setting('server_version'), current_setting('synchronous_commit')")
            version, synchronous = cursor.fetchone()
            found["PostgreSQL"] = f"{version.split()[0]} (synchronous_commit {synchronous})"
        elif connection.vendor == "mysql":
            cursor.execute("SELECT VERSION(), @@innodb_flush_log_at_trx_commit")
            version, flush = cursor.fetchone()
            found["MariaDB"] = f"{version} (innodb_flush_log_at_trx_commit {flush})"
        else:
            found["SQLite"] = ".".join(map(str, connection.Database.sqlite_version_info))
    return found
