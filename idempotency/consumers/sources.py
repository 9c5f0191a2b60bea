"""A consumer's queue, and which of its messages are at hand, held, or still to be handed out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop
from typing import Any

import kombu

from idempotency.consumers.consumer import Consumer
from idempotency.consumers.handling import Handled

MOST_HELD = 1000


@dataclass
class Source:
    """A consumer's queue, as its options say, and the messages that were handed out from it."""

    consumer: Consumer
    options: dict[str, Any]
    waiting: deque[kombu.Message] = field(default_factory=deque)
    held: list[tuple[float, int, kombu.Message, Handled]] = field(default_factory=list)
    reopened: set[str] = field(default_factory=set)
    live: Any = None

    @property
    def queue(self) -> str:
        return str(self.options["QUEUE"])

    @property
    def prefetch(self) -> int:
        return int(self.options["PREFETCH"])

    def receive(self, message: kombu.Message, error: Exception | None = None) -> None:
        """Also what kombu cannot decompress, which it has noted on the message."""
        self.waiting.append(message)

    def next(self, due_at: float) -> tuple[kombu.Message, Handled | None] | None:
        """A message, and what became of it the last time."""
        if self.held and self.held[0][0] <= due_at:
            return heappop(self.held)[-2:]
        return (self.waiting.popleft(), None) if self.waiting else None

    def forget(self) -> None:
        """Of a connection that is gone: the broker hands them out again."""
        self.waiting.clear()
        self.held.clear()
        self.reopened.clear()

    def is_window_full(self, held: kombu.Message) -> bool:
        """Whether all that was handed out in the window of this message is held: said once of each."""
        if not self.prefetch or len(self.held) >= MOST_HELD:
            return False
        if (window := window_of(held)) is None:
            return len(self.held) % self.prefetch == 0
        if window in self.reopened:
            return False
        if sum(window_of(message) == window for *_, message, _ in self.held) < self.prefetch:
            return False
        self.reopened.add(window)
        return True


def window_of(message: kombu.Message) -> str | None:
    """RabbitMQ counts a window for each consumer of a channel, kombu's own transports for the channel."""
    tag: str | None = (message.delivery_info or {}).get("consumer_tag")
    return tag
