"""What a purge forgets of the outbox and of failures of messages."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from idempotency.keys import key_digest
from idempotency.models import FailedMessage, OutboxMessage
from idempotency.purging import Purge
from tests.conftest import in_a_thread
from tests.outbox.conftest import State, send, states
from tests.test_purge import purge

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


def keep_failures(*ages):
    """Dead letters of so many ages; of None, one that is tried again."""
    now = timezone.now()
    for number, age in enumerate(ages):
        FailedMessage.objects.create(
            key_digest=key_digest(str(number)),
            scope=bytes(16),
            consumer="sms",
            key=str(number),
            first_failed_at=now,
            last_failed_at=now,
            kept_until=None if age is None else now - age,
        )


def age_published():
    OutboxMessage.objects.filter(state=State.PUBLISHED).update(kept_until=timezone.now() - DAY)


def test_published_messages_go_when_their_retention_is_over_and_what_waits_never(publisher):
    send("a", "b")
    publisher.run()
    send("c", "d")
    OutboxMessage.objects.filter(event_id="d").update(state=State.FAILED)
    assert purge() == "0 records deleted in database 'default'."
    age_published()
    assert purge("--dry-run") == "0 records to delete, 2 published messages to delete in database 'default'."
    assert purge() == "0 records deleted, 2 published messages deleted in database 'default'."
    assert states() == {"c": "WAITING", "d": "FAILED"}


def test_the_setting_says_how_long_published_messages_are_kept(publisher, settings):
    settings.IDEMPOTENCY_OUTBOX_RETENTION = timedelta(hours=1)
    send("a")
    publisher.run()
    row = OutboxMessage.objects.get()
    assert timedelta(minutes=59) < row.kept_until - row.published_at <= timedelta(minutes=61)


def test_dead_letters_go_when_their_retention_is_over_and_what_is_tried_again_never():
    keep_failures(DAY, -DAY, None)
    assert purge() == "0 records deleted, 1 failed message deleted in database 'default'."
    assert list(FailedMessage.objects.order_by("pk").values_list("key", flat=True)) == ["1", "2"]


def test_a_dead_letter_that_is_taken_up_while_it_is_purged_stays(monkeypatch):
    keep_failures(DAY)
    found = Purge._next_batch

    def next_batch(self, rows, *arguments):
        batch = found(self, rows, *arguments)
        if batch and rows.model is FailedMessage:
            in_a_thread(lambda: FailedMessage.objects.update(kept_until=None))
        return batch

    monkeypatch.setattr(Purge, "_next_batch", next_batch)
    purge()
    assert FailedMessage.objects.count() == 1
