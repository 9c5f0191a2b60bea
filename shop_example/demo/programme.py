"""What is played, in the order of the cases in the document that the project implements."""

from __future__ import annotations

import uuid

from shop_example import samples
from shop_example.demo.card_payments import CardPayments
from shop_example.demo.on_machines import LastPiece, Settlement, StockMessage
from shop_example.demo.operations import PAGE_PLAYS, Effects, Operation, on_a_page, with_key, with_token
from shop_example.demo.provider import Provider
from shop_example.demo.scenarios import Scenario, resource
from shop_example.demo.sms import OrderPaidSms
from shop_example.demo.sms_gateway import SmsGateway
from shop_example.demo.status_messages import StatusMessages
from shop_example.models import Customer, Order, Product

QUANTITY = 3
PART_CENTS = 2_500


def programme(provider: Provider, gateway: SmsGateway) -> tuple[Scenario, ...]:
    """On the samples; makes the order that is paid, in parts, so that equal payments may be meant."""
    product = Product.objects.get(name=samples.PRODUCTS[0][0])
    customer = Customer.objects.get(user__username=samples.CUSTOMER)
    unpaid = customer.place_order(product, 100)
    return (
        *by_requests(product, unpaid),
        OrderPaidSms(
            title="After payment an SMS is sent, by one of two machines",
            product=product.pk,
            gateway=gateway,
        ),
        *with_tokens(product),
        CardPayments(
            title="An order is paid by card, at a provider elsewhere",
            paths=resource("card-payments"),
            product=product.pk,
            provider=provider,
        ),
        Settlement(
            title="A nightly settlement is started by every machine's timer",
            payment=customer.pay(unpaid, PART_CENTS),
        ),
        LastPiece(title="The last piece on a shelf is taken by several pickers", product=product.pk),
        StockMessage(
            title="A message is delivered twice, to two consumers", product=product.pk, quantity=QUANTITY
        ),
    )


def by_requests(product: Product, unpaid: Order) -> tuple[Scenario, ...]:
    some = {"product": product.pk, "quantity": QUANTITY}
    from_elsewhere = {**some, "order_reference": f"elsewhere-{uuid.uuid4()}"}
    return (
        Operation(
            title="An order is created",
            paths=resource("orders"),
            prepare=with_key(some),
            wanted=Effects(orders=1, stock=QUANTITY),
        ),
        Operation(
            title="An order service elsewhere deducts the stock",
            paths=resource("stock-deductions"),
            prepare=with_key(from_elsewhere, samples.ORDER_SERVICE, ".stock"),
            wanted=Effects(stock=QUANTITY),
        ),
        Operation(
            title="A payment is sent and money moves",
            paths=resource("payments"),
            prepare=with_key({"order": unpaid.pk, "amount_cents": PART_CENTS}),
            wanted=Effects(cents=PART_CENTS),
        ),
        StatusMessages(
            title="Status messages come in the wrong order (delivered, shipped, paid, created)",
            paths=resource("order-events"),
            product=product.pk,
        ),
    )


def with_tokens(product: Product) -> tuple[Scenario, ...]:
    some = {"product": product.pk, "quantity": QUANTITY}
    checkout = Effects(orders=1, stock=QUANTITY, cents=QUANTITY * product.price_cents)
    return (
        Operation(
            title="A checkout with a one-time token is retried",
            paths=resource("checkouts"),
            prepare=with_token(some, "checkout"),
            wanted=checkout,
        ),
        Operation(
            title="The checkout page is double-clicked",
            paths=("/checkout/", "/unguarded/checkout/"),
            prepare=on_a_page(some),
            wanted=checkout,
            plays=PAGE_PLAYS,
        ),
    )
