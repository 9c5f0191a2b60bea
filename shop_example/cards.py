"""Money is moved by a payment provider, elsewhere: the calls, and what a shop does around them as it is.

No transaction of the database's undoes a call, and whoever gets no answer does not know whether the money was
moved. What makes it happen once, all the same, is in ``shop_example.operations``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httpx
from django.conf import settings

from idempotency.client import IdempotencyTransport, Retries
from shop_example.exceptions import CardDeclined, ProviderUnavailable
from shop_example.models import CardPayment, Order

SECONDS = 5
QUICKLY = Retries(attempts=3, pause=0.1, give_up_after=SECONDS)


def charge(reference: str, cents: int, key: str | None = None) -> str:
    """The charge's id. Raises CardDeclined or ProviderUnavailable."""
    return post("/charges", {"reference": reference, "cents": cents}, key)


def refund(charge: str, reference: str, key: str | None = None) -> str:
    """The refund's id. Raises ProviderUnavailable."""
    return post("/refunds", {"charge": charge, "reference": reference}, key)


def post(path: str, payload: dict[str, Any], key: str | None) -> str:
    """With a key it is sent again when no answer comes; without, that would be another charge."""
    wire = httpx.HTTPTransport()
    transport = IdempotencyTransport(wire, retries=QUICKLY) if key else wire
    headers = {"Idempotency-Key": key} if key else {}
    try:
        with httpx.Client(transport=transport, base_url=settings.PROVIDER_URL, timeout=SECONDS) as provider:
            answer = provider.post(path, json=payload, headers=headers)
            if answer.status_code == HTTPStatus.PAYMENT_REQUIRED:
                raise CardDeclined
            return str(answer.raise_for_status().json()["id"])
    except httpx.HTTPError as error:
        raise ProviderUnavailable from error


def pay_as_it_is(order: Order) -> CardPayment:
    """A charge without an answer is taken for one that failed, so that the customer can try again."""
    payment = CardPayment.reserve(order)
    try:
        charged = charge(order.reference, payment.amount_cents)
    except (CardDeclined, ProviderUnavailable):
        payment.give_up()
        raise
    payment.mark_paid(charged)
    return payment


def refund_as_it_is(payment: CardPayment) -> CardPayment:
    payment.begin_refund()
    try:
        refunded = refund(payment.charge, payment.order.reference)
    except ProviderUnavailable:
        payment.give_refund_up()
        raise
    payment.mark_refunded(refunded)
    return payment
