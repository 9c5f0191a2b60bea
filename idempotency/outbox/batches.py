"""Rows of the outbox that one publisher holds, in one transaction, and what it notes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.db.models import Min

from idempotency import conf
from idempotency.database import DatabaseNow
from idempotency.models import OutboxMessage, OutboxQuerySet

State = OutboxMessage.State
READ_COMMITTED = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)
DOUBLINGS = 10
MOST_REVIVED = 10_000
LONGEST_REASON = 1000


class Row(NamedTuple):
    id: int
    event_id: str
    exchange: str
    routing_key: str
    ordering_digest: bytes | None
    headers: str
    content_type: str
    content_encoding: str
    body: Any
    attempts: int

    def __str__(self) -> str:
        return f"{self.exchange or '(default)'} {self.routing_key} {self.event_id}"


class Batches:
    """The outbox of one database, for messages to one broker."""

    def __init__(self, using: str, broker: str) -> None:
        self.using, self.broker = using, broker

    @property
    def rows(self) -> OutboxQuerySet:
        rows: OutboxQuerySet = OutboxMessage.objects.using(self.using).filter(broker=self.broker)
        return rows

    @property
    def due(self) -> OutboxQuerySet:
        return self.rows.filter(state=State.FAILED, try_at__lte=DatabaseNow())

    @property
    def is_idle(self) -> bool:
        return not (self.rows.filter(state=State.WAITING).exists() or self.due.exists())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """READ COMMITTED, whatever the connection's level: what other publishers have done by now must be
        seen once the rows are held, and InnoDB would otherwise lock the gaps too, where the business wants
        to insert."""
        connection = connections[self.using]
        is_nested = connection.in_atomic_block  # in a TestCase's
        if connection.vendor == "mysql" and not is_nested:
            # Of the next transaction; it is refused within one.
            with connection.cursor() as cursor:
                cursor.execute(READ_COMMITTED)
        with transaction.atomic(using=self.using, durable=True):
            if connection.vendor == "postgresql" and not is_nested:
                with connection.cursor() as cursor:
                    cursor.execute(READ_COMMITTED)
            yield

    def revive(self) -> None:
        """Have those wait again that failed and are due. The first statement: on SQLite it takes the lock
        that keeps other publishers out."""
        if connections[self.using].vendor == "sqlite":
            self.due.update(state=State.WAITING)
            return
        due = self.due.order_by("id").select_for_update(skip_locked=True)
        if pks := list(due.values_list("pk", flat=True)[:MOST_REVIVED]):
            self._named(pks).update(state=State.WAITING)

    def take(self, after: int, size: int) -> list[Row]:
        """Hold the next rows that nobody else holds, in the order in which they were stored."""
        waiting = self.rows.filter(state=State.WAITING, pk__gt=after).order_by("pk")
        held = waiting.select_for_update(skip_locked=True).values_list(*Row._fields)[:size]
        return [Row._make(values) for values in held]

    def in_order(self, held: Sequence[Row]) -> list[Row]:
        """Without the rows whose ordering key has an earlier one that is neither published nor held here.
        Asked once they are held: what is published by now cannot come back."""
        keys = {row.ordering_digest for row in held if row.ordering_digest}
        if not keys:
            return list(held)
        unpublished = OutboxMessage.objects.using(self.using).waiting().filter(ordering_digest__in=keys)
        others = unpublished.filter(pk__lt=held[-1].id).exclude(pk__in=[row.id for row in held])
        first = dict(others.order_by().values_list("ordering_digest").annotate(first=Min("pk")))
        return [row for row in held if row.id < first.get(row.ordering_digest, row.id + 1)]

    def mark_published(self, pks: Collection[int]) -> None:
        if pks:
            self._named(pks).update(
                state=State.PUBLISHED,
                published_at=DatabaseNow(),
                kept_until=DatabaseNow() + conf.outbox_retention(),
                try_at=None,
                last_error="",
            )

    def mark_failed(self, rows: Collection[Row], reasons: Mapping[int, str]) -> None:
        alike: dict[tuple[int, str], list[int]] = defaultdict(list)
        for row in rows:
            if row.id in reasons:
                alike[row.attempts + 1, reasons[row.id][:LONGEST_REASON]].append(row.id)
        for (attempts, reason), pks in alike.items():
            self._named(pks).update(
                state=State.FAILED,
                attempts=attempts,
                last_error=reason,
                try_at=DatabaseNow() + pause_after(attempts),
            )

    def _named(self, pks: Collection[int]) -> OutboxQuerySet:
        rows: OutboxQuerySet = OutboxMessage.objects.using(self.using).filter(pk__in=pks)
        return rows


def pause_after(attempts: int) -> timedelta:
    doubled = 1 << min(attempts - 1, DOUBLINGS)
    return min(FIRST_PAUSE * doubled, LONGEST_PAUSE)


def waits_for_unknown(using: str, brokers: Collection[str]) -> list[str]:
    """Brokers that messages wait for and that the settings do not have."""
    waiting = OutboxMessage.objects.using(using).waiting().exclude(broker__in=brokers)
    return sorted(waiting.order_by().values_list("broker", flat=True).distinct())
