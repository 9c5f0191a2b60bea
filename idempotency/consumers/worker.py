"""A kombu worker for consumers: handles one message after the other, and acknowledges what it has handled.

A message stays unacknowledged until what it did is committed, and what was given up is confirmed elsewhere:
the broker gives it to somebody else whenever the worker or its connection ends before. What is to be tried
later is held, unacknowledged too: it neither goes round in circles, nor takes the place of others, since the
window of messages that the broker hands out is opened anew when it is full of them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from heapq import heappush
from itertools import count
from typing import Any

import kombu
from django.db import connections
from kombu.exceptions import DecodeError, SerializerNotInstalled
from kombu.mixins import ConsumerMixin

from idempotency import conf
from idempotency.brokers import be_impatient, connection, declare_queue, is_amqp
from idempotency.consumers.consumer import Consumer
from idempotency.consumers.dead_letters import REASON, DeadLetters
from idempotency.consumers.handling import Delivery, Fate, Handled
from idempotency.consumers.sources import Source

# Between two attempts to put a dead letter aside, and to reach a broker at most.
ASIDE_SECONDS = 5.0
MOST_SECONDS_AWAY = 5
UNREADABLE = (DecodeError, SerializerNotInstalled, kombu.exceptions.ContentDisallowed)
logger = logging.getLogger("idempotency")


class Stopped(Exception):
    """The worker is to end, and was waiting for its broker."""


class Worker(ConsumerMixin):
    """``run()`` until ``stop()``. All consumers are on one broker."""

    def __init__(self, consumers: list[Consumer]) -> None:
        options = [conf.consumer(consumer.name) for consumer in consumers]
        brokers = {each["BROKER"] for each in options}
        if len(brokers) > 1:
            raise ValueError(f"One worker has one broker, not {', '.join(sorted(brokers))}.")
        (broker,) = brokers
        if len({each["QUEUE"] for each in options}) < len(options):
            raise ValueError("Two consumers have one queue, and each would miss what the other is handed.")
        self.connection = connection(broker)
        self.sources = [Source(*each) for each in zip(consumers, options, strict=True)]
        self.dead_letters = DeadLetters(broker)
        self._number = count()

    def stop(self) -> None:
        """When the message in hand is done. What was handed out besides goes back to the broker."""
        self.should_stop = True

    def close(self) -> None:
        self.dead_letters.close()
        self.connection.release()

    # Connecting

    def consume(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from super().consume(*args, **kwargs)
        except self.connection.connection_errors + self.connection.channel_errors as error:
            # run() begins anew, and kombu says so to nobody who has not asked for its log: such as that an
            # exchange is missing, or that something is not permitted.
            logger.warning("begins anew with its broker: %s: %s", type(error).__name__, error)
            raise

    @contextmanager
    def establish_connection(self) -> Iterator[kombu.Connection]:
        with self.create_connection() as opened:
            opened.ensure_connection(
                self.on_connection_error,
                interval_start=1,
                interval_step=1,
                interval_max=MOST_SECONDS_AWAY,
                callback=self.end_if_stopped,
                # run() knows the broker's own, and comes back.
                reraise_as_library_errors=False,
            )
            self.live = opened
            yield opened

    def on_connection_error(self, error: Exception, interval: float) -> None:
        logger.warning(
            "the broker is away (%s: %s), tried again in %s s", type(error).__name__, error, interval
        )

    def end_if_stopped(self) -> None:
        if self.should_stop:
            raise Stopped

    def get_consumers(self, consumer_class: Any, channel: Any) -> list[kombu.Consumer]:
        for source in self.sources:
            source.forget()
            self._declare(source)
            # On a channel of its own: the window is the channel's.
            source.live = kombu.Consumer(
                self.live.channel(),
                [kombu.Queue(source.queue, no_declare=True)],
                on_message=source.receive,
                on_decode_error=source.receive,
                prefetch_count=source.prefetch,
                auto_declare=False,
            )
        return [source.live for source in self.sources]

    def _declare(self, source: Source) -> None:
        options = source.options
        declare_queue(self.live, source.queue, options["QUEUE_ARGUMENTS"])
        for routing_key in options["ROUTING_KEYS"]:
            with self.live.channel() as channel:
                kombu.Queue(source.queue, channel=channel).bind_to(options["EXCHANGE"], routing_key)

    @contextmanager
    def _consume_from(self, *consumers: kombu.Consumer) -> Iterator[tuple[kombu.Consumer, ...]]:
        """Unlike kombu's, not cancelled in the end: closing the connection is one question less to a broker
        that may not answer any more."""
        for consumer in consumers:
            consumer.consume()
        try:
            yield consumers
        finally:
            be_impatient(self.live)

    # Working

    def on_iteration(self) -> None:
        # Not what becomes due meanwhile: what fails slowly would keep all others waiting.
        due_at, sources = time.monotonic(), deque(self.sources)
        while sources and not self.should_stop:
            source = sources.popleft()
            if (delivered := source.next(due_at)) is not None:
                self._deliver(source, *delivered)
                sources.append(source)

    def _deliver(self, source: Source, message: kombu.Message, before: Handled | None) -> None:
        if before and before.fate is Fate.DEAD:
            self._settle(source, message, before)
            return
        refresh_connections()
        headers = deepcopy(message.headers or {})
        delivery = Delivery(
            source.consumer,
            (message,),
            {},
            max_attempts=source.options["MAX_ATTEMPTS"],
            # Each time: its worker may have died on any attempt, such as on one after somebody's lease.
            is_suspect=is_redelivered(message),
            has_failed=before is not None,
            is_revived=REASON in headers,
            hopeless=UNREADABLE,
            unreadable=message.errors[0][1] if message.errors else None,
            survives_exits=True,
        )
        handled = delivery.handle()
        # As it came, for the next attempt or for its dead letter: handlers take payloads to pieces.
        message.headers, message._decoded_cache = headers, None
        self._settle(source, message, handled)

    def _settle(self, source: Source, message: kombu.Message, handled: Handled) -> None:
        if handled.fate is Fate.LATER:
            self._hold(source, message, handled, handled.seconds)
        elif handled.fate is Fate.DEAD and not self._put_aside(source, message, handled.reason):
            self._hold(source, message, handled, ASIDE_SECONDS)
        elif not message.acknowledged:  # by the handler itself
            message.ack()

    def _put_aside(self, source: Source, message: kombu.Message, reason: str) -> bool:
        try:
            self.dead_letters.put_aside(message, source.queue, source.consumer.name, reason)
        except Exception:
            # Such as a dead queue that is full: no reason to leave the other messages alone.
            logger.exception("cannot be put aside, and is held: a message of %s", source.queue)
            return False
        return True

    def _hold(self, source: Source, message: kombu.Message, handled: Handled, seconds: float) -> None:
        """Unacknowledged. The broker must not take messages that are held for ones that are being handled."""
        heappush(source.held, (time.monotonic() + seconds, next(self._number), message, handled))
        if source.is_window_full(message):
            source.live.cancel()
            source.live.qos(prefetch_count=source.prefetch + (0 if is_amqp(self.live) else len(source.held)))
            source.live.consume()


def is_left_within_transaction(database: Any) -> bool:
    """Whether a handler has left it so. A TestCase's own transaction is none of its."""
    if any(getattr(block, "_from_testcase", False) for block in database.atomic_blocks):
        return False
    is_by_hand = database.connection is not None and not database.get_autocommit()
    return database.in_atomic_block or (is_by_hand and database.settings_dict["AUTOCOMMIT"])


def is_redelivered(message: kombu.Message) -> bool:
    return bool((message.delivery_info or {}).get("redelivered"))


def refresh_connections() -> None:
    """Connections that broke are made anew; those that work are kept, unlike after a request."""
    for database in connections.all(initialized_only=True):
        if is_left_within_transaction(database):
            # What came later would be acknowledged, and never committed.
            logger.error("a transaction was left open on %r, and is rolled back", database.alias)
            database.close()
            del connections[database.alias]
        elif database.errors_occurred and not database.in_atomic_block:
            database.close_if_unusable_or_obsolete()
