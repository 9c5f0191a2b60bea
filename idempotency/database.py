"""What the databases call the same thing differently: their time, and their conflicts."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Func
from django.db.models.sql.compiler import SQLCompiler

SUPPORTED_VENDORS = ("postgresql", "mysql", "sqlite")

# Deadlock and serialization failure, as PostgreSQL says it; deadlock and lock wait timeout, InnoDB.
CONFLICT_STATES = {"40001", "40P01"}
LOCK_WAIT_TIMEOUT = 1205
CONFLICT_NUMBERS = {1213, LOCK_WAIT_TIMEOUT}
# MariaDB 11.6 and newer: the row changed after the transaction's snapshot.
CONFLICT_NUMBERS |= {1020}
FAILED_TRANSACTION = "25P02"
DUPLICATE_ENTRY = 1062


class DatabaseNow(Func):
    """The database's own time: deadlines must not depend on which machine asks.

    UTC throughout. MySQL's CURRENT_TIMESTAMP is in the session's zone, which Django does not set.
    """

    template = "STATEMENT_TIMESTAMP()"
    output_field = DateTimeField()

    def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        now = "STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'now')"
        return self.as_sql(compiler, connection, template=now, **extra)


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code for the error: psycopg 2 and 3 name it differently."""
    cause = error.__cause__ or error
    return getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)


def error_number(error: BaseException) -> int | None:
    """MySQL's number for the error."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else None


def is_conflict(error: BaseException | None) -> bool:
    """Whether the database broke a tie between transactions at the expense of this one."""
    if not isinstance(error, DatabaseError):
        return False
    return sqlstate(error) in CONFLICT_STATES or error_number(error) in CONFLICT_NUMBERS


def is_refused_wait(error: BaseException, sql: str) -> bool:
    """Whether the statement was told not to wait for a lock, and therefore failed: an answer to a
    question, not a lost conflict. MariaDB reports both as 1205."""
    impatient = "NOWAIT" in sql or "innodb_lock_wait_timeout=0" in sql
    return impatient and error_number(error) == LOCK_WAIT_TIMEOUT


def is_outage(error: BaseException) -> bool:
    """Whether the store could not be reached, or SQLite stayed locked."""
    # SQLite says a missing table the same way; that is a forgotten migrate, and no retry mends it.
    return isinstance(error, OperationalError | InterfaceError) and "no such table" not in str(error)
