"""Publishing on kombu's other transports: Redis, a filesystem, a process's memory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from idempotency.outbox.batches import Row
from idempotency.outbox.links import PERSISTENT, BaseLink, Outcome, chains, headers_of, told


class DeliveringLink(BaseLink):
    """A message counts as published when kombu returns. How durable it is then is the transport's affair,
    and so is the order: the filesystem's goes by milliseconds.

    Under the default exchange its queue is declared. Of another exchange the transport must know the
    bindings; what no queue is bound to is refused, where the transport itself would drop it.
    """

    def __init__(self, connection: Any, confirm_timeout: float) -> None:
        super().__init__(connection, confirm_timeout)
        kombu: Any = import_module("kombu")
        self.producer = kombu.Producer(connection.channel(), auto_declare=False)
        self.declared: set[str] = set()

    def publish(self, rows: Sequence[Row], outcome: Outcome) -> None:
        for chain in chains(rows):
            for row in chain:
                with self.reached():
                    reason = self._deliver(row)
                if reason is not None:
                    outcome.failed[row.id] = reason
                    break
                outcome.confirmed.append(row.id)

    def _deliver(self, row: Row) -> str | None:
        try:
            if not self._has_queue(row):
                return f"No queue is bound to exchange {row.exchange!r} under {row.routing_key!r}."
            self.producer.publish(
                bytes(row.body),
                exchange=row.exchange,
                routing_key=row.routing_key,
                headers=headers_of(row),
                content_type=row.content_type,
                content_encoding=row.content_encoding,
                delivery_mode=PERSISTENT,
                message_id=row.event_id,
            )
        except self.connection.connection_errors:
            raise
        except Exception as error:
            return told(error)
        return None

    def _has_queue(self, row: Row) -> bool:
        channel = self.producer.channel
        if not row.exchange:
            if row.routing_key not in self.declared:
                channel.queue_declare(queue=row.routing_key, durable=True, auto_delete=False)
                self.declared.add(row.routing_key)
            return True
        if not hasattr(channel, "typeof"):
            return True
        try:
            table = channel.get_table(row.exchange)
        except KeyError:
            return False
        return bool(channel.typeof(row.exchange).lookup(table, row.exchange, row.routing_key, None))
