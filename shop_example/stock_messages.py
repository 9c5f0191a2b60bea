"""Messages by which services elsewhere deduct stock. A broker may deliver each more than once."""

from __future__ import annotations

from idempotency.decorators import idempotent
from idempotency.unique_ids import unique_ids
from shop_example.models import Product


@idempotent(guard=unique_ids(name="stock-messages"), key="message_id")
def receive(message_id: str, product: int, quantity: int, order: str) -> str | None:
    """None: it was handled before."""
    return receive_as_it_is(message_id, product, quantity, order)


def receive_as_it_is(message_id: str, product: int, quantity: int, order: str) -> str:
    Product.objects.get(pk=product).deduct(quantity, order)
    return order
