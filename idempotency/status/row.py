from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, NotSupportedError, connections
from django.db.models import Model, QuerySet

from idempotency.database import LOCK_NOT_AVAILABLE, LOCK_WAIT_TIMEOUT, NOWAIT_REFUSED, error_number, sqlstate
from idempotency.exceptions import ObjectGone, OperationInProgress
from idempotency.models.subjects import column_of, owner_of, primary_key, subject_columns
from idempotency.status.graph import Status

if TYPE_CHECKING:
    from idempotency.status.mixins import StatusMixin

ROW_IS_LOCKED = "The row is being worked on: retry, with the same event id if it has one."


class StatusRow:
    """The row that has an object's status: of a child model, it may be in a parent's table.

    Only ever found by its primary key. InnoDB would lock every row that it has to look at.
    """

    def __init__(self, instance: StatusMixin, using: str) -> None:
        model = type(instance)
        self.instance = instance
        self.using = using
        self.owner = owner_of(model, model.status_field)
        self.field = column_of(model, model.status_field)
        self.sequence_field = model.status_ordering.field
        self.pk = primary_key(instance, self.owner)
        if self.pk is None:
            raise ValueError(f"This {model.__name__} was not saved yet: it has no row to lock.")

        # Kept by Django from then on; found first in a transaction that rolls back, it might be made anew.
        ContentType.objects.db_manager(using).get_for_model(self.owner)

    @property
    def connection(self) -> Any:
        return connections[self.using]

    @cached_property
    def subject(self) -> dict[str, Any]:
        return subject_columns(self.owner, self.pk, self.using)

    @property
    def is_in_old_snapshot(self) -> bool:
        """Whether plain reads may not see what was committed before the row was locked. PostgreSQL refuses
        the lock then; InnoDB, under REPEATABLE READ, gives it."""
        return self.connection.vendor == "mysql" and bool(self.connection.savepoint_ids)

    def lock(self, *, nowait: bool, whole: bool) -> tuple[Status, int | None]:
        """Lock the row; its status and sequence number, which the instance then has too. With ``whole``
        every field of the instance is read again. Raises DoesNotExist or OperationInProgress."""
        try:
            if whole:
                rows = for_update(type(self.instance)._base_manager.using(self.using).all(), nowait=nowait)
                self.instance.refresh_from_db(using=self.using, from_queryset=rows)
            else:
                self._read_under_lock(nowait)
        except DatabaseError as error:
            if nowait and is_lock_refused(error):
                raise OperationInProgress(ROW_IS_LOCKED) from error
            raise
        # As it is stored: a collation may find it by another spelling.
        self.pk = primary_key(self.instance, self.owner)
        return getattr(self.instance, self.field.attname), self.known_sequence

    @property
    def known_sequence(self) -> int | None:
        """The highest sequence number that was applied, as the instance knows it."""
        return getattr(self.instance, self.sequence_field) if self.sequence_field else None

    def _read_under_lock(self, nowait: bool) -> None:
        fields: list[Any] = [self.owner._meta.pk, self.field]
        if self.sequence_field:
            fields.append(column_of(self.owner, self.sequence_field))
        rows = for_update(self.owner._base_manager.using(self.using).filter(pk=self.pk), nowait=nowait)
        found = rows.values_list(*(field.attname for field in fields)).first()
        if found is None:
            raise gone(self.instance)
        self.tell_instance({field.attname: value for field, value in zip(fields, found, strict=True)})

    def tell_instance(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self.instance, name, value)
        self.instance.note_owned(values)

    def write(self, before: Status, after: Status, sequence: int | None = None) -> bool:
        """Change the status of the locked row. False when it is not what it was when it was locked."""
        rows = self.owner._base_manager.using(self.using).filter(pk=self.pk, **{self.field.attname: before})
        written = rows.update(**self._values(after, sequence)) == 1
        if written:
            self.tell_written(after, sequence)
        return written

    def tell_written(self, status: Status, sequence: int | None) -> None:
        self.tell_instance(self._values(status, sequence))

    def _values(self, status: Status, sequence: int | None) -> dict[str, Any]:
        values = {self.field.attname: status}
        if self.sequence_field and sequence is not None:
            values[self.sequence_field] = sequence
        return values


def for_update(rows: QuerySet[Any], *, nowait: bool = False, skip_locked: bool = False) -> QuerySet[Any]:
    """``SELECT … FOR UPDATE``, or what the database has that lets rows that refer to these be inserted
    meanwhile. SQLite has no row locks; its transaction is the lock."""
    features: Any = connections[rows.db].features
    wanted = {"nowait": nowait, "skip_locked": skip_locked}
    for name, flag in wanted.items():
        if flag and not getattr(features, f"has_select_for_update_{name}"):
            raise NotSupportedError(
                f"{connections[rows.db].display_name} cannot lock rows with {name}: leave it out, and wait."
            )
    # Not the rows of other models that are joined; PostgreSQL could not lock those that may be absent.
    of = ("self", *parent_links(rows.model)) if features.has_select_for_update_of else ()
    return rows.select_for_update(**wanted, of=of, no_key=features.has_select_for_no_key_update)


def parent_links(model: type[Model], prefix: str = "") -> Iterator[str]:
    """Paths to the parents' rows, which are the object's too."""
    for parent, link in model._meta.parents.items():
        if link is not None:
            yield prefix + link.name
            yield from parent_links(parent, f"{prefix}{link.name}__")


def gone(instance: Model) -> Exception:
    """The model's DoesNotExist, which is told from any other that a hook may raise by being ObjectGone."""
    model: Any = type(instance)
    kind: type[Exception] = type("DoesNotExist", (ObjectGone, model.DoesNotExist), {})
    return kind(f"There is no {model.__name__} with the primary key {instance.pk!r} any more.")


def is_lock_refused(error: DatabaseError) -> bool:
    return sqlstate(error) == LOCK_NOT_AVAILABLE or error_number(error) in (NOWAIT_REFUSED, LOCK_WAIT_TIMEOUT)
