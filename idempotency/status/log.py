from __future__ import annotations

from typing import Any

from idempotency.database import DatabaseNow, insert_once
from idempotency.exceptions import FingerprintMismatch
from idempotency.models import StatusTransition
from idempotency.models.subjects import event_digest
from idempotency.status.events import Event
from idempotency.status.graph import Status
from idempotency.status.row import StatusRow


def log_columns(row: StatusRow, event: Event) -> dict[str, Any]:
    """Of the log, those that are known beforehand: all but ``from_status`` and ``at``."""
    return {
        **row.subject,
        "event_digest": event_digest(event.event_id),
        "event_id": event.event_id or "",
        "to_status": str(event.to),
        "sequence": event.sequence,
        "by": event.by,
    }


def log(row: StatusRow, event: Event, before: Status) -> bool:
    """Write the change to the log. False when the event is there: it was applied before."""
    entry = StatusTransition(**log_columns(row, event), from_status=str(before), at=DatabaseNow())
    return insert_once(entry, row.using)


def logged(row: StatusRow, event: Event) -> StatusTransition | None:
    """The entry of an event that was applied before; without an event, of the last change to its status.

    Raises FingerprintMismatch when the event stood for another change.
    """
    entries = StatusTransition.objects.using(row.using).filter(**subject_filter(row))
    if event.event_id is None:
        entries = entries.filter(to_status=str(event.to)).order_by("-pk")
    else:
        entries = entries.filter(event_digest=event_digest(event.event_id))
    entry: StatusTransition | None = (
        entries.select_for_update() if row.is_in_old_snapshot else entries
    ).first()
    if entry and event.event_id is not None:
        expect_same(entry.to_status, event)
    return entry


def subject_filter(row: StatusRow) -> dict[str, Any]:
    return {name: row.subject[name] for name in ("content_type_id", "object_digest")}


def expect_same(to_status: str, event: Event) -> None:
    """An event id belongs to one message. Raises FingerprintMismatch when it came with another status."""
    if to_status != str(event.to):
        raise FingerprintMismatch(
            f"The event {event.event_id} stood for a change to {to_status}, and now comes with "
            f"{event.to!s}: a new message needs an event id of its own."
        )
