"""What the databases call the same thing differently: their time, and their conflicts."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import DateTimeField, Func, Model
from django.db.models.constants import OnConflict
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.subqueries import InsertQuery

SUPPORTED_VENDORS = ("postgresql", "mysql", "sqlite")

# Deadlock and serialization failure, as PostgreSQL says it; deadlock and lock wait timeout, InnoDB.
SERIALIZATION_FAILURE = "40001"
CONFLICT_STATES = {SERIALIZATION_FAILURE, "40P01"}
LOCK_WAIT_TIMEOUT = 1205
# 1020, MariaDB 11.6 and newer: the row changed after the transaction's snapshot.
CHANGED_ROW = 1020
LOST_TIES = {1213, CHANGED_ROW}
CONFLICT_NUMBERS = {*LOST_TIES, LOCK_WAIT_TIMEOUT}
# PostgreSQL's lock_not_available, and MySQL's; MariaDB says LOCK_WAIT_TIMEOUT.
LOCK_NOT_AVAILABLE = "55P03"
NOWAIT_REFUSED = 3572
FAILED_TRANSACTION = "25P02"
# psycopg has no code where it found the connection closed; 57P01 to 57P03: the server shuts down.
LOST_CONNECTION_STATES = ("08", "57P")
# Gone away, lost during a query, lost at a system call, killed.
LOST_CONNECTION_NUMBERS = {2006, 2013, 2055, 1927}
DUPLICATE_ENTRY = 1062
# PostgreSQL's, of a conflict target that no unique index has.
NO_SUCH_CONSTRAINT = "42P10"


# The present in SQL with placeholders, UTC where the type has no zone.
NOW = {
    "postgresql": "statement_timestamp()",
    "mysql": "UTC_TIMESTAMP(6)",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f000', 'now')",
}

# The same plus a placeholder's microseconds.
LATER = {
    "postgresql": "statement_timestamp() + %s * interval '1 microsecond'",
    "mysql": "UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f000', 'now', (%s / 1000000.0) || ' seconds')",
}


# Seconds from now until the column's time, negative when that is over.
SECONDS_UNTIL = {
    "postgresql": "EXTRACT(EPOCH FROM {column} - statement_timestamp())",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), {column}) / 1000000",
    "sqlite": "(julianday({column}) - julianday('now')) * 86400.0",
}


class DatabaseNow(Func):
    """The database's own time: deadlines must not depend on which machine asks.

    UTC throughout. MySQL's CURRENT_TIMESTAMP is in the session's zone, which Django does not set. SQLite
    knows milliseconds and compares texts: with fewer digits than what Django writes, a deadline would
    not be over at its own millisecond.
    """

    template = "STATEMENT_TIMESTAMP()"
    output_field = DateTimeField()

    def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        now = "STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f000', 'now')"
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


def is_lost_tie(error: BaseException | None) -> bool:
    """Whether the whole transaction was rolled back for another's sake, so that it may be repeated."""
    return is_conflict(error) and error_number(error) != LOCK_WAIT_TIMEOUT  # type: ignore[arg-type]


def is_changed_row(error: BaseException) -> bool:
    """Whether a row was changed since the transaction's snapshot, so that it cannot be locked."""
    return sqlstate(error) == SERIALIZATION_FAILURE or error_number(error) == CHANGED_ROW


def is_refused_wait(error: BaseException, sql: str) -> bool:
    """Whether the statement was told not to wait for a lock, and therefore failed: an answer to a
    question, not a lost conflict. MariaDB reports both as 1205."""
    impatient = "NOWAIT" in sql or "innodb_lock_wait_timeout=0" in sql
    return impatient and error_number(error) == LOCK_WAIT_TIMEOUT


def is_outage(error: BaseException) -> bool:
    """Whether the store could not be reached, or SQLite stayed locked."""
    # SQLite says a missing table the same way; that is a forgotten migrate, and no retry mends it.
    return isinstance(error, OperationalError | InterfaceError) and "no such table" not in str(error)


def has_fixed_snapshot(connection: BaseDatabaseWrapper) -> bool:
    """Whether PostgreSQL shows this transaction nothing that was committed since it began."""
    if connection.vendor != "postgresql" or not connection.in_atomic_block:
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_isolation')")
        return bool(cursor.fetchone() != ("read committed",))


def is_lost_connection(error: BaseException) -> bool:
    """Whether the server, or the way to it, was gone: whatever was asked, it was not the question's fault."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if (number := error_number(error)) is not None:
        return number in LOST_CONNECTION_NUMBERS
    state, driver = sqlstate(error), type(error.__cause__).__module__
    return driver.startswith("psycopg") and (state is None or state.startswith(LOST_CONNECTION_STATES))


def impatient(connection: BaseDatabaseWrapper) -> str:
    """Prefix of a statement that must not wait for a row; MySQL itself has none."""
    if getattr(connection, "mysql_is_mariadb", False):
        return "SET STATEMENT innodb_lock_wait_timeout=0 FOR "
    return ""


def insert_once(row: Model, using: str, prefix: str = "") -> bool:
    """Insert a row; False when a unique constraint says that there is one already, and nothing else is.

    The transaction goes on in both cases. Values may be expressions, such as DatabaseNow().
    """
    connection = connections[using]
    # MySQL's IGNORE would also cut and coerce values; its failed statements leave the transaction whole.
    on_conflict = None if connection.vendor == "mysql" else OnConflict.IGNORE
    query = InsertQuery(type(row), on_conflict=on_conflict)
    query.insert_values([field for field in row._meta.local_concrete_fields if not field.primary_key], [row])
    ((sql, params),) = query.get_compiler(using=using).as_sql()
    try:
        with connection.cursor() as cursor:
            cursor.execute(prefix + sql, params)
            return bool(cursor.rowcount == 1)
    except IntegrityError as error:
        if error_number(error) != DUPLICATE_ENTRY:
            raise
        return False


def lock_and_look(
    connection: BaseDatabaseWrapper, lock: str, locked: tuple[Any, ...], look: str, looked: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """The row of the second of two statements, sent together where the driver can, each with a snapshot of
    its own under READ COMMITTED. PostgreSQL only."""
    with connection.cursor() as cursor:
        if getattr(connection.features, "uses_server_side_binding", False):
            # The extended protocol takes one statement at a time.
            cursor.execute(lock, locked)
            cursor.execute(look, looked)
        else:
            cursor.execute(f"{lock}; {look}", (*locked, *looked))
            if hasattr(cursor.cursor, "pgresult"):
                # psycopg 3 stands on the first result, psycopg2 on the last.
                cursor.nextset()
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row
