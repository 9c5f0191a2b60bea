"""An order is paid by card: what the provider has charged, and what the shop has for paid."""

from __future__ import annotations

import io
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from django.conf import settings
from django.core.management import call_command

from idempotency.models import IdempotencyRecord
from shop_example import samples
from shop_example.demo import machines, plays
from shop_example.demo.client import Caller
from shop_example.demo.plays import Play
from shop_example.demo.provider import Provider
from shop_example.demo.scenarios import Column, HTTPScenario, Outcome
from shop_example.demo.server import Server
from shop_example.demo.shop import Shop
from shop_example.models import CardPayment, Order
from shop_example.models.orders import cents_of
from shop_example.money import money

NOBODY, RETRY, COMPLETER = "-", "retry", "completer"


@dataclass(kw_only=True)
class Payer(Caller):
    """One who knows what is behind the server, and can have it go wrong."""

    shop: Shop
    provider: Provider
    order: Order
    key: str
    is_completed: bool = False

    def let_complete(self) -> None:
        """By the completer, as on another machine; the server starts meanwhile."""
        completer = self.shop.machine(complete)
        completer.start()
        machines.begin(completer)
        self.shop.server.start()
        completer.end()
        self.is_completed = "1 done" in completer.told

    @property
    def resumed_by(self) -> str:
        """Who has gone on with what was broken off; each who does has another fence."""
        record = IdempotencyRecord.objects.using(self.shop.database).with_key(self.key).get()
        return COMPLETER if self.is_completed else RETRY if record.fence > 1 else NOBODY


def complete() -> str:
    """``manage.py complete_idempotency``, when the time is over of whoever was at work."""
    time.sleep(settings.IDEMPOTENCY_LEASE.total_seconds())
    printed = io.StringIO()
    call_command("complete_idempotency", stdout=printed)
    return printed.getvalue()


def lose_providers_answer(server: Server, payer: Payer) -> None:
    payer.provider.lose_answers(payer.order.reference)
    payer.send_until_answered()


def kill_and_complete(server: Server, payer: Payer) -> None:
    """The caller comes back when it is too late to be of use."""
    plays.kill_midway(server, payer, BETWEEN_CHARGING_AND_MARKING)
    payer.let_complete()
    payer.send_until_answered()


BETWEEN_CHARGING_AND_MARKING = f"work-slowly={plays.HELD}"
# Two are harmless: an order that is being paid, or is paid, takes no other payment.
PLAYS = (
    Play("sent twice at once", partial(plays.at_once, times=2), False),
    Play("timeout, then retry", plays.time_out_then_retry, False),
    Play("charge's answer lost", lose_providers_answer, True),
    Play("killed when charged", partial(plays.kill_at, fault=BETWEEN_CHARGING_AND_MARKING), True),
    Play("killed, late retry", kill_and_complete, True),
)


@dataclass(frozen=True, kw_only=True)
class CardPayments(HTTPScenario):
    product: int
    provider: Provider
    plays: tuple[Play, ...] = PLAYS

    counted = (Column("charged", 10), Column("paid", 10))
    told = (Column("resumed by", 16),)

    def begin(self, shop: Shop, play: Play) -> CardTrial:
        order = Order.objects.using(shop.database).get(reference=shop.new_order(self.product))
        key = str(uuid.uuid4())
        message = shop.message(self.path(shop), {"order": order.pk}, samples.CUSTOMER, Idempotency_Key=key)
        payer = Payer(shop.server.port, message, shop=shop, provider=self.provider, order=order, key=key)
        return CardTrial((payer,))


class CardTrial(NamedTuple):
    callers: tuple[Payer]

    def outcome(self) -> Outcome:
        (payer,) = self.callers
        total, charged = payer.order.total_cents, payer.provider.charged(payer.order.reference)
        paid = cents_of(payer.order.card_payments.filter(status=CardPayment.Status.PAID))
        return Outcome(
            payer.sent,
            (money(charged), money(paid)),
            (payer.resumed_by if payer.shop.guarded else "",),
            charged // total if charged == paid else None,
            payer.all_answered_alike,
        )
