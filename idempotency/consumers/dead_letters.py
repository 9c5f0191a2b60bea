"""Where messages go that are given up, with the reason, and how an operator sends them again."""

from __future__ import annotations

from typing import Any

import kombu
from amqp.exceptions import MessageNacked

from idempotency.brokers import be_impatient, connection, declare_queue, is_there

REASON = "idempotency-dead-reason"
CONSUMER = "idempotency-dead-consumer"
LONGEST_REASON = 1000
CONFIRM_SECONDS = 30
KEPT_PROPERTIES = ("message_id", "correlation_id", "reply_to", "type", "app_id", "timestamp", "priority")


def dead_queue(queue: str) -> str:
    return f"{queue}.dead"


class DeadLetters:
    """A connection of its own, on which each message is confirmed before the original is acknowledged."""

    def __init__(self, broker: str) -> None:
        self._connection = connection(broker, confirm_publish=True)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Of a broker that is away, or refuses."""
        known = self._connection.connection_errors + self._connection.channel_errors
        return (*known, MessageNacked, kombu.exceptions.OperationalError)

    def put_aside(self, message: kombu.Message, queue: str, consumer: str, reason: str) -> None:
        headers = {REASON: reason[:LONGEST_REASON], CONSUMER: consumer}
        self._publish(message, dead_queue(queue), {**(message.headers or {}), **headers})

    def send_again(self, queue: str) -> int:
        """Put all that were put aside by now back into the queue. How many."""
        opened, dead, sent = self._connection, dead_queue(queue), 0
        if not is_there(opened, dead):
            return 0
        with opened.channel() as channel:
            waiting = kombu.Queue(dead, channel=channel, durable=True)
            for _ in range(waiting.queue_declare(passive=True).message_count):
                # Not Queue.get(), which raises for what cannot be decompressed.
                if (message := channel.basic_get(dead)) is None:
                    break
                if converted := getattr(channel, "message_to_python", None):
                    message = converted(message)
                self._publish(message, queue, message.headers or {})
                message.ack()
                sent += 1
        return sent

    def close(self) -> None:
        be_impatient(self._connection)
        self._connection.release()

    def _publish(self, message: kombu.Message, queue: str, headers: dict[str, Any]) -> None:
        try:
            self._publish_confirmed(message, queue, headers)
        except BaseException:
            # It may be closed without knowing so.
            self.close()
            raise

    def _publish_confirmed(self, message: kombu.Message, queue: str, headers: dict[str, Any]) -> None:
        opened = self._connection
        opened.ensure_connection(max_retries=1)
        # A broker with an alarm reads nothing from whoever has published, questions neither.
        be_impatient(opened, CONFIRM_SECONDS)
        declare_queue(opened, queue)
        kept = {name: value for name, value in message.properties.items() if name in KEPT_PROPERTIES}
        if not message.errors:
            # kombu has decompressed it.
            headers = {name: value for name, value in headers.items() if name != "compression"}
        with opened.channel() as channel:
            kombu.Producer(channel).publish(
                message.body,
                routing_key=queue,
                headers=headers,
                # What kombu takes the lack of them for; without, it would serialize the body once more.
                content_type=message.content_type or "application/data",
                content_encoding=message.content_encoding or "utf-8",
                delivery_mode=2,
                # Else the broker confirms it, and drops it, where there is no such queue any more.
                mandatory=True,
                timeout=CONFIRM_SECONDS,
                **kept,
            )
