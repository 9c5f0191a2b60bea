"""Messages per second of one worker on RabbitMQ, against a plain kombu consumer with the same handler.

The handler writes twice, in one transaction. In each round each variant gets as many messages as the others.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import kombu
from django.conf import settings
from django.db import transaction
from django.db.models import F
from kombu.mixins import ConsumerMixin

from benchmarks.models import Order, Product
from idempotency.consumers import Consumer
from idempotency.consumers.consumer import KINDS
from idempotency.consumers.worker import Worker

BARE = "plain kombu consumer"
GOALS = {"transactional": 0.75}
PREFETCH = 10
PRODUCT = 1


def measure(rounds: int, messages: int) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in (BARE, *KINDS)}
    with queues(list(rates)) as names:
        for _ in range(rounds):
            for name, found in rates.items():
                publish(names[name], messages)
                found.append(rate(name, names[name], messages))
    return [shown(name, found, rates[BARE]) for name, found in rates.items()]


def shown(name: str, rates: list[float], bare: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(rates, bare, strict=True)]
    low, __, high = quantiles(ratios, n=4)
    found = {"name": name, "rate": median(rates), "ratio": median(ratios), "quartiles": (low, high)}
    return found | {"goal": GOALS.get(name)}


@contextmanager
def queues(variants: list[str]) -> Iterator[dict[str, str]]:
    prefix = f"bench.{uuid.uuid4().hex[:12]}"
    names = {variant: f"{prefix}.{number}" for number, variant in enumerate(variants)}
    settings.IDEMPOTENCY_CONSUMERS = {
        variant: {"QUEUE": name, "PREFETCH": PREFETCH} for variant, name in names.items()
    }
    try:
        yield names
    finally:
        with broker() as connection, connection.channel() as channel:
            for name in names.values():
                kombu.Queue(name, channel=channel).delete()


def broker() -> kombu.Connection:
    return kombu.Connection(settings.IDEMPOTENCY_BROKERS["default"]["URL"])


def publish(queue: str, messages: int) -> None:
    with broker() as connection, connection.channel() as channel:
        declared = kombu.Queue(queue, channel=channel, durable=True)
        declared.queue_declare()
        producer = kombu.Producer(channel)
        for _ in range(messages):
            headers = {"event_id": str(uuid.uuid4())}
            producer.publish({"product": PRODUCT}, routing_key=queue, headers=headers, delivery_mode=2)
        while declared.queue_declare(passive=True).message_count < messages:
            pass


def handle(message: Any) -> None:
    product = message.payload["product"]
    Order.objects.create(
        product_id=product, customer_id=1, quantity=1, total_cents=700, reference=message.headers["event_id"]
    )
    Product.objects.filter(pk=product).update(stock=F("stock") - 1)


class Plain(ConsumerMixin):
    """As one writes it without an inbox."""

    def __init__(self, queue: str, handler: Callable[[Any], None]) -> None:
        self.connection, self.queue, self.handler = broker(), queue, handler

    def get_consumers(self, consumer_class: Any, channel: Any) -> list[kombu.Consumer]:
        queue = kombu.Queue(self.queue, no_declare=True)
        return [consumer_class([queue], on_message=self.on_message, prefetch_count=PREFETCH)]

    def on_message(self, message: Any) -> None:
        with transaction.atomic():
            self.handler(message)
        message.ack()

    def stop(self) -> None:
        self.should_stop = True

    def close(self) -> None:
        self.connection.release()


def rate(name: str, queue: str, messages: int) -> float:
    moments: list[float] = []

    def counted(message: Any) -> None:
        handle(message)
        moments.append(perf_counter())
        if len(moments) == messages:
            worker.stop()

    worker: Any
    if name == BARE:
        worker = Plain(queue, counted)
    else:
        key = lambda message: message.headers["event_id"]  # noqa: E731
        worker = Worker([Consumer(counted, key, name=name, delivery=name)])  # type: ignore[arg-type]
    worker.run()
    worker.close()
    return (messages - 1) / (moments[-1] - moments[0])
