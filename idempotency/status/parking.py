"""Events that came too early: kept beside the log, and applied with the change that they wait for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from django.core.exceptions import ValidationError

from idempotency.database import DatabaseNow, insert_once
from idempotency.models import ParkedEvent, ParkedEventQuerySet
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


class Waiting:
    """An object's parked events, oldest first, while its row is locked."""

    def __init__(self, row: StatusRow) -> None:
        self.row = row
        rows = waiting(row)
        self.parked = list(rows.select_for_update() if row.is_in_old_snapshot else rows)

    def take(self, is_wanted: Callable[[Event], bool]) -> Event | None:
        """Remove the first that is wanted."""
        for parked in self.parked:
            event = self._event(parked)
            if is_wanted(event):
                self.parked.remove(parked)
                parked.delete(using=self.row.using)
                return event
        return None

    def _event(self, parked: ParkedEvent) -> Event:
        try:
            to = self.row.field.to_python(parked.to_status)
        except ValidationError:  # of an earlier release, whose statuses were others
            to = None
        return Event(to, parked.event_id, parked.sequence, parked.by)


def waiting(row: StatusRow) -> ParkedEventQuerySet:
    return ParkedEvent.objects.using(row.using).filter(**subject_filter(row)).order_by("pk")
