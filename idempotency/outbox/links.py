"""What publishes a batch on a broker: one way on AMQP, another one on what else kombu knows."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from idempotency.outbox.batches import Row
from idempotency.outbox.sending import EVENT_ID

CONNECTING_SECONDS = 5.0
PERSISTENT = 2


class BrokerAway(Exception):
    """The broker could not be reached, or was lost, or does not answer."""


@dataclass
class Outcome:
    """What became of a batch so far; of what is in neither, nobody knows."""

    confirmed: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


class BaseLink(ABC):
    """A connection to one broker, open.

    ``publish()`` notes in ``outcome`` what the broker has taken and what it has refused, of each ordering key
    in the order given: what follows a message that is not taken is not published. It raises BrokerAway when
    the connection is of no more use; what is in ``outcome`` then stands.
    """

    def __init__(self, connection: Any, confirm_timeout: float) -> None:
        self.connection, self.confirm_timeout = connection, confirm_timeout

    @abstractmethod
    def publish(self, rows: Sequence[Row], outcome: Outcome) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Without a farewell: it may be of no more use."""
        with suppress(Exception):
            self.connection.collect()

    @contextmanager
    def reached(self) -> Iterator[None]:
        with reached(self.connection):
            yield


@contextmanager
def reached(connection: Any) -> Iterator[None]:
    """The connection's errors as BrokerAway."""
    try:
        yield
    except connection.connection_errors as error:
        raise BrokerAway(told(error)) from error


def told(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def headers_of(row: Row) -> dict[str, Any]:
    return {**json.loads(row.headers), EVENT_ID: row.event_id}


def chains(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one ordering key together, in order; those of none each for itself."""
    by_key: dict[bytes | int, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.ordering_digest or row.id, []).append(row)
    return list(by_key.values())


def connected(broker: str, confirm_timeout: float) -> BaseLink:
    """Raises ImproperlyConfigured, or BrokerAway."""
    # They import kombu, which not every project has.
    from idempotency import brokers
    from idempotency.outbox.confirming import ConfirmingLink
    from idempotency.outbox.delivering import DeliveringLink

    # With confirm_publish, amqp would wait for the confirm of each message.
    connection = brokers.connection(broker, confirm_publish=False)
    connection.connect_timeout = CONNECTING_SECONDS
    try:
        with reached(connection):
            # Once per host: connect() would sleep, and try again.
            once = {"max_retries": max(len(connection.alt) - 1, 0), "interval_start": 0, "interval_step": 0}
            connection.ensure_connection(**once, reraise_as_library_errors=False)
            link = ConfirmingLink if brokers.is_amqp(connection) else DeliveringLink
            return link(connection, confirm_timeout)
    except connection.channel_errors as error:
        # What RabbitMQ says to a wrong password.
        raise BrokerAway(told(error)) from error
