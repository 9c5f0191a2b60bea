from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from kombu import Connection
from kombu.transport import memory

from idempotency import outbox
from idempotency.database import DatabaseNow
from idempotency.models import OutboxMessage
from idempotency.outbox.publisher import Publisher
from tests import services
from tests.conftest import available
from tests.processes.cable import Cable
from tests.processes.gates import STUCK

State = OutboxMessage.State
MEMORY = {"default": {"URL": "memory://"}}


class Queue:
    """A durable queue of RabbitMQ's that no other test has."""

    def __init__(self, channel, arguments=None):
        self.channel, self.name = channel, f"outbox-{uuid4().hex}"
        channel.queue_declare(self.name, durable=True, auto_delete=False, arguments=arguments)

    def messages(self):
        """All that is in it, taken out."""
        got = []
        while message := self.channel.basic_get(self.name, no_ack=True):
            got.append(message)
        return got

    def event_ids(self):
        return [message.headers["event_id"] for message in self.messages()]


@pytest.fixture(autouse=True)
def brokers(settings):
    settings.IDEMPOTENCY_BROKERS = MEMORY
    yield
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()


@pytest.fixture
def channel():
    available("rabbitmq")
    with Connection(services.rabbitmq.url) as connection:
        yield connection.connect().channel()


@pytest.fixture
def declare(channel, settings):
    """``declare({"x-max-length": 1})``: a queue."""
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": services.rabbitmq.url}}
    declared = []

    def declare(arguments=None):
        declared.append(Queue(channel, arguments))
        return declared[-1]

    yield declare
    for queue in declared:
        channel.queue_delete(queue.name)


@pytest.fixture
def queue(declare):
    return declare()


@pytest.fixture
def cable(queue, settings):
    """Between publishers and RabbitMQ."""
    with Cable(services.rabbitmq.port) as cable:
        url = services.rabbitmq.url.replace(str(services.rabbitmq.port), str(cable.port))
        settings.IDEMPOTENCY_BROKERS = {"default": {"URL": url}}
        yield cable


@pytest.fixture
def publisher():
    publisher = Publisher("default", confirm_timeout=STUCK)
    yield publisher
    publisher.close()


@pytest.fixture
def refuse(monkeypatch):
    """``refuse("a")``: the broker refuses these events, until it is told otherwise."""
    refused = set()
    put = memory.Channel._put

    def _put(self, queue, message, **kwargs):
        if message["properties"]["message_id"] in refused:
            raise LookupError("not that one")
        put(self, queue, message, **kwargs)

    monkeypatch.setattr(memory.Channel, "_put", _put)

    def refuse(*event_ids):
        refused.clear()
        refused.update(event_ids)

    return refuse


def let_pause_pass():
    OutboxMessage.objects.filter(state=State.FAILED).update(try_at=DatabaseNow() - timedelta(seconds=1))


def send(*event_ids, queue="q", **options):
    """Each in a transaction of its own."""
    options = {"routing_key": queue, **options}
    for event_id in event_ids:
        with transaction.atomic():
            outbox.send({"id": event_id}, event_id=event_id, **options)


def states():
    rows = OutboxMessage.objects.order_by("pk")
    return {event_id: State(state).name for event_id, state in rows.values_list("event_id", "state")}


def delivered(queue="q"):
    """What is in a queue of this process's memory, taken out."""
    with Connection("memory://") as connection:
        channel, got = connection.channel(), []
        while message := channel.basic_get(queue):
            got.append(channel.message_to_python(message))
        return got


def event_ids(queue="q"):
    return [message.headers["event_id"] for message in delivered(queue)]


def wait_until(condition):
    deadline = time.monotonic() + STUCK
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
