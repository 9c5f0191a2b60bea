"""Paying by card and refunding, in steps: whoever retries goes on from the last point, and so does
``manage.py complete_idempotency``, which finds this module by its name.

The provider honours a key, so a call whose answer is not known is made again.
"""

from __future__ import annotations

from typing import Any

from idempotency.steps import database_step, operation, outside_call
from shop_example import cards
from shop_example.exceptions import CardDeclined
from shop_example.models import CardPayment, Order
from shop_example.serializers import CardPaymentSerializer

# As it is answered; kept with the step, and told again whatever has become of it since.
Payment = dict[str, Any]


@database_step()
def reserve(order: int) -> dict[str, Any]:
    payment = CardPayment.reserve(Order.objects.get(pk=order))
    return {"payment": payment.pk, "reference": payment.order.reference, "cents": payment.amount_cents}


@outside_call(when_broken="retry", refusals=(CardDeclined,))
def charge(reference: str, cents: int) -> str:
    return cards.charge(reference, cents, charge.downstream_key)


@database_step()
def mark_paid(payment: int, charge: str) -> Payment:
    paid = CardPayment.objects.get(pk=payment)
    paid.mark_paid(charge)
    return answer(paid)


@database_step()
def give_up(payment: int) -> Payment:
    given_up = CardPayment.objects.get(pk=payment)
    given_up.give_up()
    return answer(given_up)


@operation("shop.pay-by-card", steps=[reserve, charge, mark_paid, give_up])
def pay_by_card(order: int) -> Payment:
    """Whose status says whether it was paid or given up: that the card was declined is no failure, after
    which somebody would have to go on."""
    reserved = reserve(order)
    try:
        charged = charge(reserved["reference"], reserved["cents"])
    except CardDeclined:
        return give_up(reserved["payment"])
    return mark_paid(reserved["payment"], charged)


@database_step()
def begin_refund(payment: int) -> dict[str, Any]:
    refunded = CardPayment.objects.get(pk=payment)
    refunded.begin_refund()
    return {"charge": refunded.charge, "reference": refunded.order.reference}


@outside_call(when_broken="retry")
def refund(charge: str, reference: str) -> str:
    return cards.refund(charge, reference, refund.downstream_key)


@database_step()
def mark_refunded(payment: int, refund: str) -> Payment:
    refunded = CardPayment.objects.get(pk=payment)
    refunded.mark_refunded(refund)
    return answer(refunded)


@operation("shop.refund-card", steps=[begin_refund, refund, mark_refunded])
def refund_card(payment: int) -> Payment:
    begun = begin_refund(payment)
    return mark_refunded(payment, refund(begun["charge"], begun["reference"]))


def answer(payment: CardPayment) -> Payment:
    return dict(CardPaymentSerializer(payment).data)
