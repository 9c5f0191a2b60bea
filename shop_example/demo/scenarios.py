"""The operations that are played, and how their effects are counted: in the database itself."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from django.db.models import Sum

from shop_example import samples
from shop_example.demo import plays
from shop_example.demo.client import Caller, Message
from shop_example.demo.plays import Play
from shop_example.demo.shop import Shop
from shop_example.models import Customer, Order, Product

QUANTITY = 3
PART_CENTS = 2_500
API_PLAYS = (plays.TIMEOUT, plays.EIGHT_AT_ONCE, plays.KILLED_BEFORE_COMMIT, plays.KILLED_AFTER_COMMIT)
PAGE_PLAYS = (plays.DOUBLE_CLICK, plays.TIMEOUT, plays.KILLED_BEFORE_COMMIT, plays.KILLED_AFTER_COMMIT)


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


@dataclass(frozen=True)
class Outcome:
    """``refusals``: told that it was done, or that it is being done and to come back."""

    sent: int
    effects: Effects
    replays: int
    refusals: int
    all_answered_alike: bool


# What is sent in a shop to a path, with a key or a token that no other operation has.
Prepare = Callable[[Shop, str], Message]


@dataclass(frozen=True)
class Scenario:
    title: str
    #: Of the operation with the guard, and of its twin.
    paths: tuple[str, str]
    prepare: Prepare
    wanted: Effects
    plays: tuple[Play, ...] = API_PLAYS

    def play(self, play: Play, shops: tuple[Shop, ...]) -> list[Outcome]:
        """In each of the shops, at the same time."""
        callers = [self.caller(shop) for shop in shops]
        before = [Effects.so_far(shop.database) for shop in shops]
        plays.side_by_side(
            *[partial(play.run, shop.server, caller) for shop, caller in zip(shops, callers, strict=True)]
        )
        return [
            Outcome(
                caller.sent,
                Effects.so_far(shop.database).since(then),
                caller.replays,
                caller.conflicts + caller.duplicates,
                caller.all_answered_alike,
            )
            for shop, caller, then in zip(shops, callers, before, strict=True)
        ]

    def caller(self, shop: Shop) -> Caller:
        shop.server.marker.unlink(missing_ok=True)
        guarded, unguarded = self.paths
        return Caller(shop.server.port, self.prepare(shop, guarded if shop.guarded else unguarded))

    def is_right(self, outcome: Outcome) -> bool:
        """One effect, and nobody was told anything else."""
        return outcome.effects == self.wanted and outcome.all_answered_alike


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


def resource(name: str) -> tuple[str, str]:
    return f"/api/{name}/", f"/api/unguarded/{name}/"


def scenarios() -> tuple[Scenario, ...]:
    """On the samples; makes the order that is paid, in parts, so that equal payments may be meant."""
    product = Product.objects.get(name=samples.PRODUCTS[0][0])
    unpaid = Customer.objects.get(user__username=samples.CUSTOMER).place_order(product, 100)
    some = {"product": product.pk, "quantity": QUANTITY}
    from_elsewhere = {**some, "order_reference": f"elsewhere-{uuid.uuid4()}"}
    part = {"order": unpaid.pk, "amount_cents": PART_CENTS}
    checkout = Effects(orders=1, stock=QUANTITY, cents=QUANTITY * product.price_cents)
    return (
        Scenario(
            "An order is created",
            resource("orders"),
            with_key(some),
            Effects(orders=1, stock=QUANTITY),
        ),
        Scenario(
            "An order service elsewhere deducts the stock",
            resource("stock-deductions"),
            with_key(from_elsewhere, samples.ORDER_SERVICE, ".stock"),
            Effects(stock=QUANTITY),
        ),
        Scenario(
            "A payment is sent and money moves",
            resource("payments"),
            with_key(part),
            Effects(cents=PART_CENTS),
        ),
        Scenario(
            "A checkout with a one-time token is retried",
            resource("checkouts"),
            with_token(some, "checkout"),
            checkout,
        ),
        Scenario(
            "The checkout page is double-clicked",
            ("/checkout/", "/unguarded/checkout/"),
            on_a_page(some),
            checkout,
            PAGE_PLAYS,
        ),
    )
