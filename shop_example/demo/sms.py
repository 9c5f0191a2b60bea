"""When an order is paid, its customer gets an SMS: what the gateway was asked for, and what it has sent."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import NamedTuple

from idempotency.keys import key_digest
from idempotency.models import FailedMessage
from shop_example import samples
from shop_example.demo.client import LONG
from shop_example.demo.plays import Play, side_by_side
from shop_example.demo.scenarios import Column, Outcome, Scenario
from shop_example.demo.server import Server, wait_for
from shop_example.demo.shop import Shop
from shop_example.demo.sms_gateway import SmsGateway
from shop_example.models import Order

CONSUMER = "sms.order-paid"
# Longer than a machine has a message for itself without saying that it is still at it.
SLOW_SECONDS = 1.5


@dataclass
class PaidOrder:
    """An order, the message that it is paid, and how often that was sent."""

    shop: Shop
    gateway: SmsGateway
    order: Order
    sent: int = 0

    @property
    def reference(self) -> str:
        return self.order.reference

    @property
    def event(self) -> str:
        return f"order-paid-{self.reference}"

    def pay(self) -> None:
        """The message goes out from the shop's outbox."""
        self.shop.messaging.wait_until_started()
        payload = {"order": self.order.pk, "amount_cents": self.order.total_cents}
        key = str(uuid.uuid4())
        self.shop.create("/api/payments/", payload, samples.CUSTOMER, Idempotency_Key=key)
        self.sent += 1

    def send_again(self) -> None:
        self.shop.messaging.deliver_again(self.event)
        self.sent += 1

    def wait_until_asked(self) -> None:
        """The gateway, by a machine."""
        wait_for(lambda: self.gateway.asked(self.reference) > 0, "the gateway to be asked", LONG)
        self.shop.messaging.refuse_dead()

    def wait_until_handled(self) -> None:
        """And acknowledged, each copy of the message."""
        wait_for(lambda: self.handled + self.skipped >= self.sent, "the message to be handled", LONG)

    @property
    def handled(self) -> int:
        if self.shop.guarded:
            return self.noted("completed")
        return self.shop.messaging.noted(f"done {self.event}")

    @property
    def put_off(self) -> int:
        return self.noted("refused")

    @property
    def skipped(self) -> int:
        return self.noted("replayed")

    def noted(self, what: str) -> int:
        """By the inbox, which names a message by its digest."""
        return self.shop.messaging.noted(f"{what} {CONSUMER} {key_digest(self.event).hex()[:12]}")


def to_another_meanwhile(server: Server, paid: PaidOrder) -> None:
    paid.gateway.answer_late(paid.reference, SLOW_SECONDS)
    paid.pay()
    paid.wait_until_asked()
    paid.send_again()
    paid.wait_until_handled()


def again_when_done(server: Server, paid: PaidOrder) -> None:
    paid.pay()
    paid.wait_until_handled()
    paid.send_again()
    paid.wait_until_handled()


def lose_gateways_answer(server: Server, paid: PaidOrder) -> None:
    paid.gateway.lose_answers(paid.reference)
    paid.pay()
    paid.wait_until_handled()


PLAYS = (
    Play("to another meanwhile", to_another_meanwhile, True),
    Play("again, when done", again_when_done, True),
    Play("SMS's answer lost", lose_gateways_answer, True),
)


@dataclass(frozen=True, kw_only=True)
class OrderPaidSms(Scenario):
    product: int
    gateway: SmsGateway
    plays: tuple[Play, ...] = PLAYS

    called = f"manage.py consume {CONSUMER}"
    counted = (Column("asked", 10), Column("SMS", 10))
    told = (Column("put off", 8), Column("skipped", 8))

    def begin(self, shop: Shop, play: Play) -> SmsTrial:
        shop.messaging.start()
        order = Order.objects.using(shop.database).get(reference=shop.new_order(self.product))
        return SmsTrial((PaidOrder(shop, self.gateway, order),))

    def end(self, shops: tuple[Shop, ...]) -> None:
        side_by_side(*[shop.messaging.stop for shop in shops])


class SmsTrial(NamedTuple):
    callers: tuple[PaidOrder]

    def outcome(self) -> Outcome:
        (paid,) = self.callers
        asked, sms = paid.gateway.asked(paid.reference), paid.gateway.sent(paid.reference)
        failures = FailedMessage.objects.using(paid.shop.database).with_key(paid.event)
        # A moment after the message is handled.
        wait_for(lambda: not failures.exists(), "the inbox to forget that it has failed", LONG)
        return Outcome(
            paid.sent,
            (str(asked), str(sms)),
            (str(paid.put_off), str(paid.skipped)),
            sms,
            (paid.handled, paid.skipped) == (1, paid.sent - 1),
        )
