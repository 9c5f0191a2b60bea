"""Events that came too early: kept beside the log, and applied with the change that they wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from idempotency.database import DatabaseNow, insert_once
from idempotency.models import ParkedEvent, ParkedEventQuerySet
from idempotency.models.subjects import event_digest
from idempotency.status.events import Event
from idempotency.status.graph import Status
from idempotency.status.log import expect_same, log_columns, subject_filter
from idempotency.status.row import StatusRow


def park(row: StatusRow, current: Status, event: Event, report_after: timedelta) -> None:
    """Keep the event, once. The row is locked, and whoever enables the event will look for it under the
    same lock."""
    parked = ParkedEvent(
        **log_columns(row, event), parked_at=DatabaseNow(), report_at=DatabaseNow() + report_after
    )
    if not insert_once(parked, row.using):
        expect_same(waiting(row).get(event_digest=parked.event_digest).to_status, event)
    # PostgreSQL, under REPEATABLE READ: a transaction whose snapshot lacks the event must not get the lock
    # after this, as if nothing had happened to the row.
    row.write(current, current)


def enabled(row: StatusRow, is_next: Callable[[Event], bool]) -> Iterator[Event]:
    """Take the events that are next, one after the other, as the status changes with each."""
    rows = waiting(row)
    parked = list(rows.select_for_update() if row.is_in_old_snapshot else rows)
    while ready := next((each for each in parked if is_next(event_of(row, each))), None):
        parked.remove(ready)
        ready.delete(using=row.using)
        yield event_of(row, ready)


def event_of(row: StatusRow, parked: ParkedEvent) -> Event:
    return Event(row.field.to_python(parked.to_status), parked.event_id, parked.sequence, parked.by)


def forget(row: StatusRow, event: Event) -> None:
    """The event is applied after all: it may have waited for a change that went around the mechanism."""
    if event.event_id is not None:
        waiting(row).filter(event_digest=event_digest(event.event_id)).delete()


def waiting(row: StatusRow) -> ParkedEventQuerySet:
    return ParkedEvent.objects.using(row.using).filter(**subject_filter(row)).order_by("pk")
