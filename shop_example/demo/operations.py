"""One operation, sent again: what it leaves of orders, stock and money."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Sum

from shop_example import samples
from shop_example.demo import plays
from shop_example.demo.client import Caller, Message
from shop_example.demo.plays import Play
from shop_example.demo.scenarios import Column, HTTPScenario, Outcome
from shop_example.demo.shop import Shop
from shop_example.models import Customer, Order, Product
from shop_example.money import money

API_PLAYS = (plays.TIMEOUT, plays.EIGHT_AT_ONCE, plays.KILLED_BEFORE_COMMIT, plays.KILLED_AFTER_COMMIT)
PAGE_PLAYS = (plays.DOUBLE_CLICK, plays.TIMEOUT, plays.KILLED_BEFORE_COMMIT, plays.KILLED_AFTER_COMMIT)

# What is sent in a shop to a path, with a key or a token that no other operation has.
Prepare = Callable[[Shop, str], Message]


class Effects(NamedTuple):
    orders: int = 0
    stock: int = 0
    cents: int = 0

    @classmethod
    def so_far(cls, database: str) -> Effects:
        """Orders written, and stock and money that are gone, counted from zero."""
        stock = Product.objects.using(database).aggregate(left=Sum("stock"))["left"]
        balance = Customer.objects.using(database).aggregate(left=Sum("balance_cents"))["left"]
        return cls(Order.objects.using(database).count(), -stock, -balance)

    def since(self, before: Effects) -> Effects:
        return Effects(*(now - then for now, then in zip(self, before, strict=True)))

    def times(self, wanted: Effects, most: int) -> int | None:
        """How many times the wanted effects these are."""
        multiples = (times for times in range(most + 1) if self == tuple(times * part for part in wanted))
        return next(multiples, None)


@dataclass(frozen=True, kw_only=True)
class Operation(HTTPScenario):
    prepare: Prepare
    wanted: Effects
    plays: tuple[Play, ...] = API_PLAYS

    counted = (Column("orders", 7), Column("stock", 6), Column("money", 7))
    told = (Column("replays", 8), Column("refused", 8))

    def begin(self, shop: Shop, play: Play) -> OperationTrial:
        caller = Caller(shop.server.port, self.prepare(shop, self.path(shop)))
        return OperationTrial(caller, self.wanted, shop.database, Effects.so_far(shop.database))


class OperationTrial(NamedTuple):
    caller: Caller
    wanted: Effects
    database: str
    before: Effects

    @property
    def callers(self) -> tuple[Caller, ...]:
        return (self.caller,)

    def outcome(self) -> Outcome:
        caller, effects = self.caller, Effects.so_far(self.database).since(self.before)
        refusals = caller.conflicts + caller.duplicates
        return Outcome(
            caller.sent,
            (str(effects.orders), str(effects.stock), money(effects.cents)),
            (str(caller.replays), str(refusals)),
            effects.times(self.wanted, most=caller.sent),
            caller.all_answered_alike,
        )


def with_key(payload: dict[str, Any], user: str = samples.CUSTOMER, suffix: str = "") -> Prepare:
    """``suffix``: what the caller adds to the key of the order it works on."""

    def prepare(shop: Shop, path: str) -> Message:
        return shop.message(path, payload, user, Idempotency_Key=f"{uuid.uuid4()}{suffix}")

    return prepare


def with_token(payload: dict[str, Any], purpose: str) -> Prepare:
    def prepare(shop: Shop, path: str) -> Message:
        token = shop.one_time_token(purpose, samples.CUSTOMER)
        return shop.message(path, payload, samples.CUSTOMER, Idempotency_Token=token)

    return prepare


def on_a_page(fields: dict[str, Any]) -> Prepare:
    """The token, if any, comes with the form."""

    def prepare(shop: Shop, path: str) -> Message:
        return shop.browser.fill_in(path, **fields)

    return prepare
