"""Messages per second of the outbox's publisher on RabbitMQ, against publishing without an outbox."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

from amqp import Message
from django.db import transaction
from django.test import override_settings
from kombu import Connection

from idempotency import outbox
from idempotency.models import OutboxMessage
from idempotency.outbox import confirming
from idempotency.outbox.publisher import Publisher
from tests.services import rabbitmq

BODY = {"order": 17, "customer": "7f6d0a4e", "cents": 129_900, "items": [{"sku": "a-1", "count": 2}] * 3}
BATCH = 500
AT_ONCE = 1000
GOAL = 5000


def measure(messages: int, rounds: int) -> list[dict[str, Any]]:
    """Rounds of each way in turn. Durable queue, persistent messages of some 150 bytes."""
    with (
        override_settings(IDEMPOTENCY_BROKERS={"default": {"URL": rabbitmq.url}}),
        Connection(rabbitmq.url) as broker,
    ):
        channel, queue = broker.connect().channel(), f"bench-{uuid4().hex}"
        channel.queue_declare(queue, durable=True, auto_delete=False)
        ways: dict[str, Callable[[], float]] = {
            f"outbox, batches of {BATCH}, confirms as they come": lambda: published(messages, queue),
            "outbox, 100 ordering keys": lambda: published(messages, queue, keys=100),
            "outbox, one confirm per message": lambda: one_by_one(messages // 5, queue),
            "no outbox, confirms as they come": lambda: raw(broker.connection, messages, queue),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        try:
            for _ in range(rounds):
                for name, way in ways.items():
                    channel.queue_purge(queue)
                    found[name].append(way())
        finally:
            channel.queue_delete(queue)
    goals = {next(iter(ways)): GOAL}
    return [
        {"name": name, "rate": median(rates), "quartiles": quartiles(rates), "goal": goals.get(name)}
        for name, rates in found.items()
    ]


def quartiles(rates: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(rates)
    return ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def fill(messages: int, queue: str, keys: int = 0) -> None:
    OutboxMessage.objects.all().delete()
    for start in range(0, messages, AT_ONCE):
        with transaction.atomic():
            for number in range(start, min(start + AT_ONCE, messages)):
                outbox.send(BODY, routing_key=queue, key=f"order:{number % keys}" if keys else "")


def published(messages: int, queue: str, keys: int = 0) -> float:
    fill(messages, queue, keys)
    publisher = Publisher("default", BATCH)
    gc.collect()
    started = perf_counter()
    done = publisher.run().published
    spent = perf_counter() - started
    publisher.close()
    assert done == messages, done
    return messages / spent


def one_by_one(messages: int, queue: str) -> float:
    together, confirming.MOST_IN_FLIGHT = confirming.MOST_IN_FLIGHT, 1
    try:
        return published(messages, queue)
    finally:
        confirming.MOST_IN_FLIGHT = together


def raw(connection: Any, messages: int, queue: str) -> float:
    channel, waiting = connection.channel(), set(range(1, messages + 1))

    def note_ack(tag: int, multiple: bool) -> None:
        waiting.difference_update([each for each in waiting if each <= tag] if multiple else [tag])

    body = outbox.sending.encoded(BODY, None)[0]
    channel.confirm_select()
    channel.events["basic_ack"].add(note_ack)
    gc.collect()
    started = perf_counter()
    for number in range(messages):
        properties = {"message_id": str(number), "application_headers": {"event_id": str(number)}}
        channel.basic_publish(Message(body, delivery_mode=2, **properties), "", queue, mandatory=True)
    while waiting:
        connection.drain_events(timeout=30)
    spent = perf_counter() - started
    channel.close()
    return messages / spent
