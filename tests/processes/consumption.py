"""One message, delivered again and again: as a broker does that is not told that it was handled.

What its worker tells the broker is in files, a line each time.
"""

from __future__ import annotations

import os
from pathlib import Path

from idempotency.consumers import registered
from idempotency.consumers.worker import Worker
from idempotency.database import DatabaseNow
from idempotency.models import FailedMessage, InboxMessage
from tests.project import consumers
from tests.project.models import Order


def noted(what, key):
    return Path(os.environ["NOTES"]) / f"{what} {key}"


def note(what, key):
    with noted(what, key).open("a") as file:
        file.write("\n")


def number(what, key):
    path = noted(what, key)
    return path.stat().st_size if path.exists() else 0


class Message:
    errors, acknowledged = (), False
    properties = {}

    def __init__(self, key, payload):
        self.headers, self.payload = {"event_id": key}, payload
        self.delivery_info = {"redelivered": number("delivered", key) > 0}

    def ack(self):
        note("acknowledged", self.headers["event_id"])


class DeadLetters:
    def put_aside(self, message, queue, consumer, reason):
        note("aside", message.headers["event_id"])


def deliver(name, payload, key):
    worker = Worker([registered(name)])
    worker.dead_letters = DeadLetters()
    (source,) = worker.sources
    if payload["fails"]:
        source.options["MAX_ATTEMPTS"] = 1
    source.receive(Message(key, payload))
    note("delivered", key)
    worker.on_iteration()
    return {"status": 409 if source.held else 200, "body": ""}


def give_up(key):
    """Whose time is over after an accident, is replaced at once."""
    InboxMessage.objects.all().with_key(key).filter(state=InboxMessage.State.RUNNING).update(
        expires_at=DatabaseNow()
    )


def found(key):
    with consumers.gateway() as client:
        sent = len(consumers.told(client, key))
    records = InboxMessage.objects.all().with_key(key)
    failed = FailedMessage.objects.with_key(key)
    return {
        "done": Order.objects.filter(reference=key).count() + sent,
        "state": next(iter(records.values_list("state", flat=True)), None),
        "failed": failed.count(),
        "dead": failed.filter(dead_at__isnull=False).count(),
        "aside": number("aside", key),
        "acknowledged": number("acknowledged", key),
    }
