"""The operations that are played, and how their effects are counted: in the database itself."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Sum

from shop_example import samples
from shop_example.demo.client import Caller, sign_in
from shop_example.demo.plays import Play
from shop_example.demo.server import Server
from shop_example.models import Customer, Order, Product

QUANTITY = 3
PART_CENTS = 2_500


class Effects(NamedTuple):
    orders: int = 0
    stock: int = 0
    cents: int = 0

    @classmethod
    def so_far(cls) -> Effects:
        """Orders written, and stock and money that are gone, counted from zero."""
        stock = Product.objects.aggregate(left=Sum("stock"))["left"]
        balance = Customer.objects.aggregate(left=Sum("balance_cents"))["left"]
        return cls(Order.objects.count(), -stock, -balance)

    def since(self, before: Effects) -> Effects:
        return Effects(*(now - then for now, then in zip(self, before, strict=True)))


@dataclass(frozen=True)
class Outcome:
    sent: int
    effects: Effects
    replays: int
    refusals: int
    all_answered_alike: bool


@dataclass(frozen=True)
class Scenario:
    title: str
    resource: str
    payload: dict[str, Any]
    user: str
    wanted: Effects
    # What the caller adds to the key of the order it works on.
    key_suffix: str = ""

    def play(self, play: Play, server: Server, token: str, *, guarded: bool) -> Outcome:
        path = f"/api/{self.resource}/" if guarded else f"/api/unguarded/{self.resource}/"
        caller = Caller(server.port, path, self.payload, token, f"{uuid.uuid4()}{self.key_suffix}")
        server.marker.unlink(missing_ok=True)
        before = Effects.so_far()
        play.run(server, caller)
        effects = Effects.so_far().since(before)
        return Outcome(caller.sent, effects, caller.replays, caller.refusals, caller.all_answered_alike)

    def is_right(self, outcome: Outcome) -> bool:
        """One effect, and nobody was told anything else."""
        return outcome.effects == self.wanted and outcome.all_answered_alike


def scenarios() -> tuple[Scenario, ...]:
    """On the samples; makes the order that is paid, in parts, so that equal payments may be meant."""
    product = Product.objects.get(name=samples.PRODUCTS[0][0])
    customer = Customer.objects.get(user__username=samples.CUSTOMER)
    unpaid = customer.place_order(product, 100)
    return (
        Scenario(
            "An order is created",
            "orders",
            {"product": product.pk, "quantity": QUANTITY},
            samples.CUSTOMER,
            Effects(orders=1, stock=QUANTITY),
        ),
        Scenario(
            "An order service elsewhere deducts the stock",
            "stock-deductions",
            {"product": product.pk, "quantity": QUANTITY, "order_reference": f"elsewhere-{uuid.uuid4()}"},
            samples.ORDER_SERVICE,
            Effects(stock=QUANTITY),
            key_suffix=".stock",
        ),
        Scenario(
            "A payment is sent and money moves",
            "payments",
            {"order": unpaid.pk, "amount_cents": PART_CENTS},
            samples.CUSTOMER,
            Effects(cents=PART_CENTS),
        ),
    )


def tokens(server: Server) -> dict[str, str]:
    return {name: sign_in(server.port, name, name) for name in (samples.CUSTOMER, samples.ORDER_SERVICE)}
