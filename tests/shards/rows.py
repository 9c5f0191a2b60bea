"""Rows of every model that has a page, under the same primary key on each shard."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from idempotency.keys import INBOX
from idempotency.models import (
    FailedMessage,
    IdempotencyRecord,
    InboxMessage,
    LedgerEntry,
    OperationRun,
    OutboxMessage,
    ParkedEvent,
    StatusTransition,
)
from idempotency.models.subjects import object_digest
from idempotency.steps.journal import BEGUN, DONE, Entry, dumped
from tests.test_purge import build

BOTH = ["default", "elsewhere"]
PK = 7
SLOT_OF = {"default": 0, "elsewhere": 8}
State = IdempotencyRecord.State
HOUR = timedelta(hours=1)
JOURNAL = [Entry("reserve", "a1", DONE, 1), Entry("charge", "b2", BEGUN)]
DELETABLE = [FailedMessage, OutboxMessage, ParkedEvent]
MODELS = [IdempotencyRecord, InboxMessage, StatusTransition, LedgerEntry, *DELETABLE]


def keep(alias, key=None, *, pk=PK, **fields):
    """An operation that was abandoned."""
    fields = {"state": State.UNKNOWN, "expires": -HOUR, "slot": SLOT_OF[alias], **fields}
    record = build(key or f"key-on-{alias}", pk=pk, **fields)
    record.save(using=alias, force_insert=True)
    return record


def begun(alias):
    """One with a run, which broke off in a call."""
    record = keep(alias, state=State.RUNNING, fence=1)
    run = OperationRun(
        record_id=PK,
        name="pay",
        arguments=f'"{alias}"',
        principal_kind="user",
        principal_id="7",
        steps_digest=bytes(16),
        retention=HOUR,
        journal=dumped(JOURNAL),
    )
    run.save(using=alias, force_insert=True)
    return record


def row(model, alias, **others):
    if model is IdempotencyRecord:
        return keep(alias)
    if model is InboxMessage:
        return keep(alias, principal=INBOX)
    (made,) = model.objects.using(alias).bulk_create([model(pk=PK, **fields_of(model, alias), **others)])
    return made


def fields_of(model, alias) -> dict[str, Any]:
    event, now = f"e-{alias}", timezone.now()
    if model is FailedMessage:
        digests = {"key_digest": bytes(16), "scope": bytes(16)}
        return {**digests, "consumer": "c", "key": event, "first_failed_at": now, "last_failed_at": now}
    if model is OutboxMessage:
        return {"event_id": event, "broker": "default", "routing_key": "q", "body": b"{}", "created_at": now}
    types = ContentType.objects.db_manager(alias)
    subject = {
        "content_type_id": types.get_for_model(IdempotencyRecord).pk,
        "object_id": "1",
        "object_digest": object_digest(1),
    }
    if model is LedgerEntry:
        of_ledger = {"field": "f", "amount": "1", "value": "1", "operation_id": event}
        return {**subject, **of_ledger, "operation_digest": bytes(16), "at": now}
    of_event = {**subject, "event_id": event, "event_digest": bytes(16), "to_status": f"to-{alias}"}
    if model is ParkedEvent:
        return {**of_event, "parked_at": now, "report_at": now}
    return {**of_event, "from_status": "a", "at": now}
