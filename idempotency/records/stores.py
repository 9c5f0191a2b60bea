from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.module_loading import import_string

from idempotency import conf
from idempotency.records.base import BaseRecordStore

STORES = {
    "postgresql": "idempotency.records.postgresql.PostgreSQLRecordStore",
    "mysql": "idempotency.records.mysql.MySQLRecordStore",
    "sqlite": "idempotency.records.sqlite.SQLiteRecordStore",
}
PARTITIONED = "idempotency.records.partitioned.PartitionedRecordStore"


def store_class(connection: BaseDatabaseWrapper) -> type[BaseRecordStore]:
    try:
        path = STORES[connection.vendor]
    except KeyError:
        raise ImproperlyConfigured(
            f"Idempotency records cannot be kept on {connection.display_name}: "
            "use PostgreSQL, MySQL, MariaDB or SQLite."
        ) from None
    if connection.vendor == "postgresql" and conf.partitions():
        path = PARTITIONED
    store: type[BaseRecordStore] = import_string(path)
    return store
