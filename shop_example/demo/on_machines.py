"""Work that no request asks for, by several processes: a timer's, a picker's, and a message's."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, ClassVar, NamedTuple

from django.core.management import call_command
from django.db.models import Sum

from idempotency.exceptions import StaleFence
from shop_example import picking, stock_messages
from shop_example.demo import machines
from shop_example.demo.machines import Machine
from shop_example.demo.operations import Effects
from shop_example.demo.plays import Play
from shop_example.demo.scenarios import Column, Outcome, Scenario
from shop_example.demo.shop import Shop
from shop_example.exceptions import OutOfStock
from shop_example.models import Payment, Payout, Pick, Shelf

DONE, SKIPPED, SOLD_OUT, STALE, FAILED = "done", "skipped", "sold out", "stale", "failed"
Run = Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class MachineScenario(Scenario):
    machines: int

    sent = "runs"
    #: What the shop with the guard has.
    guard: ClassVar[str]

    def begin(self, shop: Shop, play: Play) -> MachineTrial:
        guard = self.guard if shop.guarded else play.instead
        run, count = self.prepare(shop.database, play, guard)
        callers = tuple(shop.machine(run) for _ in range(self.machines))
        return MachineTrial(callers, guard, tuple(column.heading for column in self.told), count)

    def prepare(self, database: str, play: Play, guard: str) -> tuple[Run, Callable[[], Effect]]:
        """What each machine runs, with this guard, and how to count what it came to."""
        raise NotImplementedError


class Effect(NamedTuple):
    number: int
    #: How often it is the whole one; None when its parts disagree.
    times: int | None


class MachineTrial(NamedTuple):
    callers: tuple[Machine, ...]
    guard: str
    #: What those may be told, and are counted for, of whom it was not done.
    others: tuple[str, ...]
    count: Callable[[], Effect]

    def outcome(self) -> Outcome:
        effect, told = self.count(), [machine.told for machine in self.callers]
        numbers = [told.count(other) for other in self.others]
        return Outcome(
            len(told),
            (self.guard, str(effect.number)),
            tuple(map(str, numbers)),
            effect.times,
            told.count(DONE) == 1 and sum(numbers) == len(told) - 1,
        )


@dataclass(frozen=True, kw_only=True)
class Settlement(MachineScenario):
    #: Paid for on each of the days.
    payment: Payment

    called = "manage.py settle"
    guard = "first wins"
    counted = (Column("guard", 11), Column("payouts", 9))
    told = (Column(SKIPPED, 16),)
    plays: tuple[Play, ...] = (
        Play("four at once, 1 late", machines.all_but_one_at_once, True),
        Play("four at once, 1 late", machines.all_but_one_at_once, True, "plain lock"),
    )
    machines: int = 5

    def prepare(self, database: str, play: Play, guard: str) -> tuple[Run, Callable[[], Effect]]:
        day = date(2026, 1, 1) + timedelta(days=self.plays.index(play))
        Payment.objects.using(database).filter(pk=self.payment.pk).update(
            created_at=datetime.combine(day, time(12), UTC)
        )
        payouts = Payout.objects.using(database).filter(day=day)
        return partial(settle, day, guard), partial(self.count, payouts)

    def count(self, payouts: Any) -> Effect:
        number = payouts.count()
        cents = payouts.aggregate(sum=Sum("amount_cents"))["sum"]
        return Effect(number, number if cents == number * self.payment.amount_cents else None)


def settle(day: date, guard: str) -> str:
    printed = io.StringIO()
    call_command("settle", str(day), guard=guard.replace(" ", "-"), stdout=printed)
    return DONE if "booked" in printed.getvalue() else SKIPPED


@dataclass(frozen=True, kw_only=True)
class LastPiece(MachineScenario):
    product: int

    called = "shop_example.picking"
    guard = "fence"
    counted = (Column("guard", 11), Column("sold", 9))
    told = (Column(SOLD_OUT, 9), Column(STALE, 7))
    plays: tuple[Play, ...] = (
        Play("four at once", machines.at_once, True),
        Play("one halted", machines.first_halted, True, "plain lock"),
    )
    machines: int = 4

    def prepare(self, database: str, play: Play, guard: str) -> tuple[Run, Callable[[], Effect]]:
        shelf = Shelf.objects.using(database).create(
            product_id=self.product, pieces=1, place=str(uuid.uuid4())[:20]
        )
        return partial(take, shelf.pk, guard), partial(self.count, shelf)

    def count(self, shelf: Shelf) -> Effect:
        sold = sum(shelf.picks.values_list("quantity", flat=True))
        shelf.refresh_from_db()
        return Effect(sold, sold if shelf.pieces == 0 else None)


TAKE: dict[str, Callable[[int], Pick]] = {
    "none": picking.take_as_it_is,
    "plain lock": picking.take_under_a_lock,
    "fence": picking.take,
}


def take(shelf: int, guard: str) -> str:
    try:
        TAKE[guard](shelf)
    except OutOfStock:
        return SOLD_OUT
    except StaleFence:
        return STALE
    return DONE


@dataclass(frozen=True, kw_only=True)
class StockMessage(MachineScenario):
    product: int
    quantity: int

    called = "shop_example.stock_messages"
    guard = "unique id"
    counted = (Column("guard", 11), Column("stock", 9))
    told = (Column(SKIPPED, 9), Column(FAILED, 7))
    plays: tuple[Play, ...] = (
        Play("to both at once", machines.at_once, True),
        Play("again, when done", machines.in_turn, True),
        Play("again, when failed", machines.first_failing, False),
    )
    machines: int = 2

    def prepare(self, database: str, play: Play, guard: str) -> tuple[Run, Callable[[], Effect]]:
        message = (str(uuid.uuid4()), self.product, self.quantity, "order of elsewhere")
        return partial(receive, message, guard), partial(self.count, database, Effects.so_far(database))

    def count(self, database: str, before: Effects) -> Effect:
        effects = Effects.so_far(database).since(before)
        return Effect(effects.stock, effects.times(Effects(stock=self.quantity), most=self.machines))


def receive(message: tuple[str, int, int, str], guard: str) -> str:
    consume = stock_messages.receive_as_it_is if guard == "none" else stock_messages.receive
    try:
        return DONE if consume(*message) else SKIPPED
    except machines.OutOfOrder:
        return FAILED
