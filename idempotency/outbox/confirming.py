"""Publishing on AMQP 0-9-1, with the confirms of a batch taken as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from amqp import Message, spec
from amqp.exceptions import ChannelError, NotFound

from idempotency.outbox.batches import Row
from idempotency.outbox.links import (
    PERSISTENT,
    BaseLink,
    BrokerAway,
    Outcome,
    chains,
    headers_of,
    told,
)

# Sent and not yet confirmed. More does not make a broker faster.
MOST_IN_FLIGHT = 500
# Bytes after which what was written is sent.
MOST_UNSENT = 1 << 20
# A reserved number, exchange, routing key, and two flags.
PUBLISH_FORMAT, MANDATORY, IMMEDIATE = "Bssbb", True, False


class ConfirmingLink(BaseLink):
    """A message counts as published when the broker has confirmed it: that it is in a queue, on disk where
    that is durable. One that no queue takes is returned, which is a refusal."""

    def __init__(self, connection: Any, confirm_timeout: float) -> None:
        super().__init__(connection, confirm_timeout)
        self.known_exchanges = {""}
        # kombu's own would be made anew when it was lost, with nothing of what is known about this one.
        self.amqp: Any = connection.connection
        # A broker that takes nothing more must not keep a write waiting for ever either.
        self.amqp.transport.sock.settimeout(confirm_timeout)

    def publish(self, rows: Sequence[Row], outcome: Outcome) -> None:
        with self.reached():
            flight = Flight(self._without_exchange(rows, outcome), outcome, self.confirm_timeout)
            limit = MOST_IN_FLIGHT
            while not flight.is_over:
                channel = self.amqp.channel()
                try:
                    flight.go_on(channel, limit)
                    channel.close()
                except ChannelError as error:
                    if not flight.in_flight:
                        raise
                    # The broker closes the channel on what it cannot take, and does not say which that is.
                    limit = MOST_IN_FLIGHT if flight.failed_alone(told(error)) else 1
                    self.known_exchanges = {""}
                    with suppress(ChannelError):
                        channel.close()

    @contextmanager
    def reached(self) -> Iterator[None]:
        try:
            with super().reached():
                yield
        except ChannelError as error:
            raise BrokerAway(told(error)) from error
        except AttributeError as error:
            # amqp's, on a connection that was lost under it.
            if self.amqp.connected:
                raise
            raise BrokerAway(told(error)) from error

    def _without_exchange(self, rows: Sequence[Row], outcome: Outcome) -> list[list[Row]]:
        """Publishing to an exchange that is not there would close the channel in the middle of the batch."""
        missing = {name: why for name in {row.exchange for row in rows} if (why := self._missing(name))}
        found = []
        for chain in chains(rows):
            lacking = next((n for n, row in enumerate(chain) if row.exchange in missing), len(chain))
            if lacking < len(chain):
                outcome.failed[chain[lacking].id] = missing[chain[lacking].exchange]
            found.append(chain[:lacking])
        return found

    def _missing(self, exchange: str) -> str | None:
        if exchange in self.known_exchanges:
            return None
        channel = self.amqp.channel()
        try:
            channel.exchange_declare(exchange, type="direct", passive=True)
        except NotFound as error:
            return told(error)
        except ChannelError:
            # Such as that one may not ask; publishing will tell.
            return None
        finally:
            channel.close()
        self.known_exchanges.add(exchange)
        return None


@contextmanager
def corked(transport: Any) -> Iterator[bytearray]:
    """Have what amqp writes in the block sent at its end, in one piece: a system call for each message takes
    longer than all else that is done for it. Nothing may be waited for in the block."""
    write, unsent = transport._write, bytearray()
    transport._write = unsent.extend
    try:
        yield unsent
    finally:
        transport._write = write
    if unsent:
        transport.write(unsent)


class Flight:
    """One batch on its way. Of each chain one message at most is unconfirmed: what follows a message that
    the broker refuses has then not been published before it."""

    def __init__(self, chains: Sequence[Sequence[Row]], outcome: Outcome, confirm_timeout: float) -> None:
        self.outcome, self.confirm_timeout = outcome, confirm_timeout
        self.following = [deque(chain) for chain in chains if chain]
        self.ready = deque((following.popleft(), following) for following in self.following)
        self.in_flight: dict[int, tuple[Row, deque[Row]]] = {}
        self.returned: dict[int, str] = {}
        self.sent = 0

    @property
    def is_over(self) -> bool:
        return not self.ready and not self.in_flight

    def go_on(self, channel: Any, limit: int) -> None:
        """Until all is confirmed or refused, with so many unconfirmed at once."""
        channel.confirm_select()
        self.sent = 0
        channel.events["basic_ack"].add(self.note_ack)
        channel.events["basic_nack"].add(self.note_nack)
        channel.events["basic_return"].add(self.note_return)
        while not self.is_over:
            with corked(channel.connection.transport) as unsent:
                while self.ready and len(self.in_flight) < limit and len(unsent) < MOST_UNSENT:
                    self.send(channel, *self.ready.popleft())
            self.wait(channel.connection)

    def send(self, channel: Any, row: Row, following: deque[Row]) -> None:
        message = Message(
            bytes(row.body),
            content_type=row.content_type,
            content_encoding=row.content_encoding,
            application_headers=headers_of(row),
            message_id=row.event_id,
            delivery_mode=PERSISTENT,
        )
        self.sent += 1
        self.in_flight[self.sent] = row, following
        # basic_publish() would look first whether the broker has said anything: see corked().
        arguments = (0, row.exchange, row.routing_key, MANDATORY, IMMEDIATE)
        channel.send_method(spec.Basic.Publish, PUBLISH_FORMAT, arguments, message)

    def wait(self, connection: Any) -> None:
        """For some more confirms."""
        before = len(self.in_flight)
        deadline = time.monotonic() + self.confirm_timeout
        while self.in_flight and len(self.in_flight) == before:
            try:
                # Not drain_events(), which a broker's heartbeats would keep for ever.
                connection.blocking_read(max(deadline - time.monotonic(), 0.001))
            except TimeoutError as error:
                raise BrokerAway(f"It has confirmed nothing for {self.confirm_timeout:g} s.") from error

    def note_ack(self, tag: int, multiple: bool) -> None:
        for row, following in self.confirmed(tag, multiple):
            if reason := self.returned.pop(row.id, None):
                self.outcome.failed[row.id] = reason
                continue
            self.outcome.confirmed.append(row.id)
            if following:
                self.ready.append((following.popleft(), following))

    def note_nack(self, tag: int, multiple: bool) -> None:
        for row, _ in self.confirmed(tag, multiple):
            self.outcome.failed[row.id] = "The broker has refused it (basic.nack): is the queue full?"

    def confirmed(self, tag: int, multiple: bool) -> list[tuple[Row, deque[Row]]]:
        tags = [sent for sent in self.in_flight if sent <= tag] if multiple else [tag]
        return [self.in_flight.pop(sent) for sent in tags if sent in self.in_flight]

    def note_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        """It comes before the message's confirm, and in the order of sending."""
        sought = (message.properties.get("message_id"), exchange, routing_key)
        for row, _ in self.in_flight.values():
            if (row.event_id, row.exchange, row.routing_key) == sought and row.id not in self.returned:
                bound = f"exchange {exchange!r} under" if exchange else "the default exchange under"
                self.returned[row.id] = f"No queue is bound to {bound} {routing_key!r}: {told(error)}"
                return

    def failed_alone(self, reason: str) -> bool:
        """Whether it is known which message the broker has closed the channel on. Otherwise all that were
        in flight are sent once more, one by one."""
        suspects = list(self.in_flight.values())
        self.in_flight.clear()
        self.returned.clear()
        if len(suspects) == 1:
            self.outcome.failed[suspects[0][0].id] = reason
            return True
        self.ready.extendleft(reversed(suspects))
        return False
