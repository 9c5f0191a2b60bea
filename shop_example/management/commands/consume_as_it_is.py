from __future__ import annotations

import signal
from typing import Any

import httpx
import kombu
from django.conf import settings
from django.core.management.base import BaseCommand
from kombu.mixins import ConsumerMixin

from idempotency.brokers import connection
from shop_example.consumers import event_id, tell_customer_as_it_is

# Between two looks for a signal to stop.
SAFETY_SECONDS = 0.2


class Command(BaseCommand):
    help = (
        "Send the SMS about orders that are paid, without a guard, until SIGTERM or SIGINT: what "
        "`manage.py consume sms.order-paid` is compared with."
    )

    def handle(self, **options: Any) -> None:
        with connection("default") as opened:
            worker = Worker(opened, settings.ORDER_PAID_QUEUE, self.stdout)
            for ending in (signal.SIGTERM, signal.SIGINT):
                signal.signal(ending, worker.stop)
            self.stdout.write(f"Handling messages of {settings.ORDER_PAID_QUEUE}.")
            self.stdout.flush()
            worker.run(safety_interval=SAFETY_SECONDS)


class Worker(ConsumerMixin):
    """Acknowledges what is done, and only then; gives back what is not, for whichever machine is free."""

    def __init__(self, opened: kombu.Connection, queue: str, log: Any) -> None:
        self.connection, self.queue, self.log = opened, queue, log

    def stop(self, number: int, frame: Any) -> None:
        self.should_stop = True

    def get_consumers(self, consumer_class: Any, channel: Any) -> list[kombu.Consumer]:
        queue = kombu.Queue(self.queue, durable=True)
        return [consumer_class([queue], on_message=self.take, prefetch_count=1)]

    def take(self, message: kombu.Message) -> None:
        try:
            tell_customer_as_it_is(message)
        except httpx.HTTPError as error:
            message.requeue()
            self.tell("failed", message, error)
        else:
            message.ack()
            self.tell("done", message)

    def tell(self, what: str, message: kombu.Message, error: Exception | None = None) -> None:
        self.log.write(f"{what} {event_id(message)} {error or ''}")
        self.log.flush()
