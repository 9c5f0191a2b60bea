"""A change of status where nothing must be read: ``UPDATE … WHERE status IN (…)``, with its log row."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db import IntegrityError, transaction

from idempotency.database import DUPLICATE_ENTRY, NOW, error_number
from idempotency.exceptions import WrittenElsewhere
from idempotency.models import StatusTransition
from idempotency.status.events import Event
from idempotency.status.graph import Status
from idempotency.status.log import log_columns
from idempotency.status.row import StatusRow

# Names that no table has.
HELD, LOGGED = "idempotency_held", "idempotency_logged"
TEXT = {"postgresql": "text", "mysql": "CHAR", "sqlite": "text"}
Statement = tuple[str, list[Any]]


class Applied(NamedTuple):
    """``before``: None where several statuses were possible, and the database does not say which it was."""

    before: Status | None


class ChangeStatement:
    """On PostgreSQL the check, the change and the log are one statement, and one round trip. Elsewhere
    they are two: the log's row is made from the locked row, if that has one of the statuses."""

    def __init__(self, row: StatusRow, event: Event) -> None:
        self.row, self.event = row, event
        self.ordering = type(row.instance).status_ordering
        sources = type(row.instance).status_graph().sources(event.to)
        # Without an event, what is there already is a duplicate.
        self.sources = [each for each in sources if event.event_id is not None or each != event.to]
        self.vendor: str = row.connection.vendor
        self.table = self._quoted(row.owner._meta.db_table)
        self.pk, self.status = self._column(row.owner._meta.pk), self._column(row.field)

    @property
    def is_possible(self) -> bool:
        """Not for a text as primary key: a collation may find the row by other spellings too, and only the
        row says under which one its events are logged."""
        return bool(self.sources) and not isinstance(self.row.pk, str)

    @property
    def tells_before(self) -> bool:
        return self.vendor == "postgresql" or len(self.sources) == 1

    def execute(self) -> Applied | None:
        """None when it did not apply: nothing was changed, and why is for a closer look to say."""
        if self.vendor == "postgresql":
            with self.row.connection.cursor() as cursor:
                cursor.execute(*self._whole())
                found = cursor.fetchone()
            return found and Applied(self.row.field.to_python(found[0]))
        with transaction.atomic(using=self.row.using, savepoint=False):
            if not self._log():
                return None
            if self._run(self._update()) != 1:  # a trigger's doing: the row was locked
                raise WrittenElsewhere(f"{self.row.instance!r} was logged as changed, and was not.")
        return Applied(self.sources[0] if self.tells_before else None)

    def _log(self) -> bool:
        condition, values = self._condition()
        insert, columns = self._insert(f"{self.table} {condition}", self.status)
        suffix = " FOR UPDATE" if self.vendor == "mysql" else " ON CONFLICT DO NOTHING"
        try:
            return self._run((insert + suffix, columns + values)) == 1
        except IntegrityError as error:
            if error_number(error) != DUPLICATE_ENTRY:
                raise
            return False

    def _run(self, statement: Statement) -> int:
        with self.row.connection.cursor() as cursor:
            cursor.execute(*statement)
            return int(cursor.rowcount)

    # SQL

    def _whole(self) -> Statement:
        condition, values = self._condition()
        insert, columns = self._insert(HELD, f"{HELD}.status")
        assignments, assigned = self._assignments()
        return (
            f"WITH {HELD} AS (SELECT {self.pk} AS pk, {self.status} AS status FROM {self.table} {condition} "
            f"FOR NO KEY UPDATE), {LOGGED} AS ({insert} ON CONFLICT DO NOTHING RETURNING 1) "
            f"UPDATE {self.table} SET {assignments} FROM {HELD} "
            f"WHERE {self.table}.{self.pk} = {HELD}.pk AND EXISTS (SELECT FROM {LOGGED}) "
            f"RETURNING {HELD}.status",
            values + columns + assigned,
        )

    def _condition(self) -> Statement:
        placeholders = ", ".join(["%s"] * len(self.sources))
        sql = f"WHERE {self.pk} = %s AND {self.status} IN ({placeholders})"
        values = [self._prepared(self.row.owner._meta.pk, self.row.pk)]
        values += [self._prepared(self.row.field, source) for source in self.sources]
        if field := self._counted_by():
            known = self._column(field)
            if self.ordering.waits_for_predecessor:
                sql += f" AND COALESCE({known}, 0) + 1 = %s"
            else:
                sql += f" AND ({known} IS NULL OR {known} < %s)"
            values.append(self._prepared(field, self.event.sequence))
        return sql, values

    def _insert(self, source: str, status: str) -> Statement:
        """The log's row out of the object's."""
        columns = log_columns(self.row, self.event)
        fields = [StatusTransition._meta.get_field(name) for name in columns]
        names = ", ".join(self._column(field) for field in fields)
        placeholders = ", ".join(["%s"] * len(fields))
        before, at = (self._column(StatusTransition._meta.get_field(name)) for name in ("from_status", "at"))
        return (
            f"INSERT INTO {self._quoted(StatusTransition._meta.db_table)} ({names}, {before}, {at}) "
            f"SELECT {placeholders}, CAST({status} AS {TEXT[self.vendor]}), {NOW[self.vendor]} FROM {source}",
            [self._prepared(field, value) for field, value in zip(fields, columns.values(), strict=True)],
        )

    def _assignments(self) -> Statement:
        fields = {self.row.field: self.event.to}
        if field := self._counted_by():
            fields[field] = self.event.sequence
        sql = ", ".join(f"{self._column(field)} = %s" for field in fields)
        return sql, [self._prepared(field, value) for field, value in fields.items()]

    def _update(self) -> Statement:
        assignments, assigned = self._assignments()
        pk = self._prepared(self.row.owner._meta.pk, self.row.pk)
        return f"UPDATE {self.table} SET {assignments} WHERE {self.pk} = %s", [*assigned, pk]

    def _counted_by(self) -> Any:
        if self.row.sequence_field is None or self.event.sequence is None:
            return None
        return self.row.owner._meta.get_field(self.row.sequence_field)

    def _prepared(self, field: Any, value: Any) -> Any:
        """As the column's type has it: InnoDB would lock every row for a number compared with texts."""
        return field.get_db_prep_save(value, self.row.connection)

    def _column(self, field: Any) -> str:
        return self._quoted(field.column)

    def _quoted(self, name: str) -> str:
        return str(self.row.connection.ops.quote_name(name))
