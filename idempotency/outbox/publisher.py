"""Publishing what the outbox holds. Any number of publishers may be at work at once.

What holds, whatever ends a publisher and wherever:

- No message is lost. A row is marked as published only after the broker's confirm, in the transaction that
  holds it; until that has committed it waits, and whoever comes next publishes it.
- What was published and not marked is published again, under the same event id. Nothing else is published
  twice: a row that somebody holds is skipped, and one that is marked is never taken again.
- Messages of one ordering key and broker are first published in the order in which they were stored. A row is
  published only when each earlier one of its key is marked as published, or was confirmed to this publisher
  before; that is asked after the row is held. One that the broker refuses is tried again, later each time and
  for ever, and those after it wait for it.

Ids are given when a row is stored and not when it is committed, so all of this is about transactions of which
one began to store after the other had committed: of those that ran side by side, neither is the earlier one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from idempotency import conf
from idempotency.outbox.batches import Batches, waits_for_unknown
from idempotency.outbox.links import BaseLink, BrokerAway, Outcome, connected

# There are no row locks on SQLite: a batch holds the one lock that every writer waits for.
LARGEST_ON_SQLITE = 50
FIRST_REST, LONGEST_REST = 1.0, 30.0
logger = logging.getLogger("idempotency")


@dataclass
class Passed:
    """What a pass has done: how many were published, which failed and why, and which brokers are away."""

    published: int = 0
    failed: list[str] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)


@dataclass
class Outage:
    began_at: float
    pause: float = 0.0
    ends_at: float = 0.0


class Publisher:
    """Holds a connection to each broker between passes; ``close()`` ends them.

    ``confirm_timeout``: seconds without any confirm after which the connection is given up, and what was not
    confirmed is left to wait.
    """

    def __init__(
        self,
        using: str,
        batch_size: int = 500,
        *,
        confirm_timeout: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        is_sqlite = connections[using].vendor == "sqlite"
        self.using, self.confirm_timeout, self.clock = using, confirm_timeout, clock
        self.batch_size = min(batch_size, LARGEST_ON_SQLITE) if is_sqlite else batch_size
        self.links: dict[str, BaseLink] = {}
        self.outages: dict[str, Outage] = {}

    def run(self, is_stopped: Callable[[], bool] = lambda: False) -> Passed:
        """One pass over all that waits, in batches; ``is_stopped`` is asked between two. Rows that others
        hold, and those that come after them, are left to the next pass.

        Raises ImproperlyConfigured, and the database's errors; what was published before is marked.
        """
        passed, brokers = Passed(), configured_brokers()
        for broker in waits_for_unknown(self.using, brokers):
            self._note_away(broker, BrokerAway("IDEMPOTENCY_BROKERS does not have it"), passed)
        for broker in brokers:
            try:
                self._pass_over(Batches(self.using, broker), passed, is_stopped)
            except BrokerAway as error:
                self._note_away(broker, error, passed)
            except BaseException:
                # In the middle of something, who knows.
                self.close()
                raise
        return passed

    def close(self) -> None:
        while self.links:
            self.links.popitem()[1].close()

    def _pass_over(self, batches: Batches, passed: Passed, is_stopped: Callable[[], bool]) -> None:
        if is_stopped() or batches.is_idle:
            return
        # Before rows are held: it may take its time.
        link, after = self._link(batches.broker), 0
        while not is_stopped():
            outcome, away = Outcome(), None
            with batches.transaction():
                if not after or connections[self.using].vendor == "sqlite":
                    batches.revive()
                held = batches.take(after, self.batch_size)
                rows = batches.in_order(held) if held else []
                try:
                    link.publish(rows, outcome)
                except BrokerAway as error:
                    away = error
                batches.mark_published(outcome.confirmed)
                batches.mark_failed(rows, outcome.failed)
            passed.published += len(outcome.confirmed)
            passed.failed += [f"{row}: {outcome.failed[row.id]}" for row in rows if row.id in outcome.failed]
            if away:
                raise away
            if len(held) < self.batch_size:
                return
            after = held[-1].id

    def _link(self, broker: str) -> BaseLink:
        if broker in self.links:
            return self.links[broker]
        outage = self.outages.get(broker)
        if outage and self.clock() < outage.ends_at:
            raise BrokerAway("It was away, and is tried again later.")
        link = self.links[broker] = connected(broker, self.confirm_timeout)
        if self.outages.pop(broker, None) and outage:
            logger.info("broker %r is back after %.1f s", broker, self.clock() - outage.began_at)
        return link

    def _note_away(self, broker: str, error: BrokerAway, passed: Passed) -> None:
        passed.away[broker] = str(error)
        if link := self.links.pop(broker, None):
            link.close()
        outage = self.outages.get(broker)
        if outage is None:
            outage = self.outages[broker] = Outage(self.clock())
            logger.warning("broker %r is away, and what waits for it waits on: %s", broker, error)
        if self.clock() >= outage.ends_at:
            # A connection that was merely lost is made anew at once.
            outage.ends_at = self.clock() + outage.pause
            outage.pause = min(max(2 * outage.pause, FIRST_REST), LONGEST_REST)


def configured_brokers() -> list[str]:
    """Raises ImproperlyConfigured where there is none."""
    aliases = getattr(settings, "IDEMPOTENCY_BROKERS", None)
    if not isinstance(aliases, Mapping) or not aliases:
        raise ImproperlyConfigured(
            'IDEMPOTENCY_BROKERS is not set: {"default": {"URL": "amqp://user:password@host:5672//"}}.'
        )
    for alias in aliases:
        conf.broker(alias)
    return list(aliases)
