from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Sum

from idempotency import outbox
from idempotency.status import Park, StatusMixin, Transition
from shop_example.exceptions import BeingPaid
from shop_example.faults import work_slowly
from shop_example.models.customers import Customer
from shop_example.models.products import Product
from shop_example.models.references import new_reference
from shop_example.money import money


class Status(models.TextChoices):
    CREATED = "created"
    PAID = "paid"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


IN_THE_HOUSE = {Status.CREATED, Status.PAID}
GIVEN_UP = {Status.CANCELLED, Status.REFUNDED}
# By message, an order may be so before its card's money is given back.
REFUNDABLE = {Status.PAID, Status.DELIVERED, Status.REFUNDED}


class Order(StatusMixin, models.Model):
    """Its status follows the customer's payments, and the messages of services that come in any order:
    what comes too early waits, what comes too late changes nothing."""

    Status = Status

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="orders")
    product = models.ForeignKey(Product, models.PROTECT, related_name="orders")
    quantity = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    total_cents = models.PositiveBigIntegerField()
    reference = models.CharField(max_length=64, unique=True, default=new_reference)
    status = models.CharField(max_length=20, choices=Status, default=Status.CREATED)
    note = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    status_transitions = {
        Status.CREATED: [Status.PAID, Status.CANCELLED],
        Status.PAID: [Status.SHIPPED, Status.REFUNDED],
        Status.SHIPPED: [Status.DELIVERED],
        Status.DELIVERED: [Status.REFUNDED],
    }
    status_ordering = Park()
    status_lookup = "reference"

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.reference

    @property
    def total(self) -> str:
        return money(self.total_cents)

    @property
    def paid(self) -> str:
        return money(self.paid_cents)

    @property
    def paid_cents(self) -> int:
        """The payments' sum, also when it was given back since."""
        return cents_of(self.payments) + cents_of(self.card_payments.charged())

    @property
    def open_cents(self) -> int:
        """What is neither paid nor being paid."""
        return self.total_cents - self.paid_cents - cents_of(self.card_payments.reserved())

    def on_transition(self, transition: Transition) -> None:
        # The status is written by now, and what it causes is not.
        work_slowly()
        if transition.to_status in GIVEN_UP:
            if self.card_payments.reserved().exists():
                raise BeingPaid
            operation = f"{transition.to_status} {self.reference}"
            self._give_back_money(operation, transition.by)
            if transition.from_status in IN_THE_HOUSE:
                self.product.increment("stock", self.quantity, operation_id=operation, by=transition.by)
        self.notices.create(status=transition.to_status)

    def send_paid(self) -> None:
        """That its customer has paid it, to whom it may concern: within the transaction that makes it so, and
        so once. What a message says of it, the service knows that has sent it."""
        outbox.send(
            {"order": self.reference, "phone": self.customer.phone, "amount_cents": self.total_cents},
            routing_key=settings.ORDER_PAID_QUEUE,
            key=self.reference,
            event_id=f"order-paid-{self.reference}",
        )

    def _give_back_money(self, operation: str, by: str) -> None:
        """All that was paid from the balance: of an order that is cancelled, perhaps a part. What was paid by
        card the provider gives back."""
        if paid := cents_of(self.payments):
            self.customer.increment("balance_cents", paid, operation_id=operation, by=by)


def cents_of(payments: Any) -> int:
    return payments.aggregate(sum=Sum("amount_cents"))["sum"] or 0


class Notice(models.Model):
    """What the customer is told, one row each. Whoever sends it takes it from here."""

    order = models.ForeignKey(Order, models.PROTECT, related_name="notices")
    status = models.CharField(max_length=20, choices=Status)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        return f"Your order {self.order} is {self.status}."
