"""What is done about a message that an order is paid: with a guard, and as it is.

Whoever sends messages on delivers each at least once: again when an answer is late or lost, and to another
machine then.
"""

from __future__ import annotations

from typing import Any

from idempotency.consumers import idempotent_consumer
from idempotency.steps import downstream_key
from shop_example import sms
from shop_example.money import money


def event_id(message: Any) -> str:
    return str(message.headers["event_id"])


@idempotent_consumer("sms.order-paid", key=event_id, delivery="at_least_once")
def tell_customer(message: Any) -> None:
    """By one machine at a time. Should it break off, the next one asks the gateway under the same key."""
    send_sms(message, downstream_key())


def tell_customer_as_it_is(message: Any) -> None:
    send_sms(message)


def send_sms(message: Any, key: str | None = None) -> None:
    """To a customer who has a telephone."""
    paid = message.payload
    text = f"Your order {paid['order']} is paid: {money(paid['amount_cents'])}. Thank you!"
    if paid["phone"]:
        sms.send(paid["phone"], text, paid["order"], key)
