from __future__ import annotations

from typing import Any, TypeVar

from django.db import DatabaseError, connections, router
from django.db.models import Model, QuerySet
from django.db.transaction import TransactionManagementError

from idempotency.exceptions import OperationInProgress
from idempotency.status.row import ROW_IS_LOCKED, for_update, is_lock_refused

M = TypeVar("M", bound=Model)


def lock_rows(rows: QuerySet[M], *, nowait: bool = False, skip_locked: bool = False) -> list[M]:
    """Lock the rows of a queryset until the transaction ends, in the order of their primary keys, so that
    two who lock several cannot wait for each other. Returns what they are like under the lock.

    Inside ``transaction.atomic()`` only. ``nowait`` raises OperationInProgress when one is locked by
    somebody else, ``skip_locked`` leaves those out; NotSupportedError where the database has no such thing.
    A row that no longer matches is left out.
    """
    query = rows.query
    if query.is_sliced or query.distinct or query.combinator or query.group_by:
        raise ValueError(
            "Rows are locked one by one: give a queryset without slices, distinct(), unions and aggregates."
        )
    options: dict[str, Any] = {"nowait": nowait, "skip_locked": skip_locked}
    # What was not said is where it is written, not where it is read.
    using: str = getattr(rows, "_db", None) or router.db_for_write(rows.model)
    if not connections[using].in_atomic_block:
        raise TransactionManagementError(
            "Rows are locked until a transaction ends: use transaction.atomic()."
        )
    rows = rows.using(using).order_by("pk")
    try:
        if connections[using].vendor != "mysql":
            return list(for_update(rows, **options))
        # InnoDB locks what its scan comes upon, in that order, whatever the result is sorted by.
        pks = list(rows.values_list("pk", flat=True))
        return [row for pk in pks for row in for_update(rows.filter(pk=pk), **options)]
    except DatabaseError as error:
        if nowait and is_lock_refused(error):
            raise OperationInProgress(ROW_IS_LOCKED) from error
        raise
