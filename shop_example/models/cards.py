from __future__ import annotations

from typing import Self

from django.core.validators import MinValueValidator
from django.db import models, transaction

from idempotency.status import StatusMixin, lock_rows
from shop_example.exceptions import NotPayable, NotRefundable
from shop_example.models.orders import REFUNDABLE, Order
from shop_example.money import money


class Status(models.TextChoices):
    RESERVED = "reserved"
    PAID = "paid"
    GIVEN_UP = "given up"
    REFUNDING = "refunding"
    REFUNDED = "refunded"


CHARGED = (Status.PAID, Status.REFUNDING, Status.REFUNDED)


class CardPaymentQuerySet(models.QuerySet["CardPayment"]):
    def reserved(self) -> Self:
        """Of whose money nobody here knows yet whether it was moved."""
        return self.filter(status=Status.RESERVED)

    def charged(self) -> Self:
        """Also those that were given back since."""
        return self.filter(status__in=CHARGED)


class CardPayment(StatusMixin, models.Model):
    """What is left to be paid for an order, by money that a provider moves (``shop_example.cards``). Each of
    the methods is one transaction; the provider is called between two of them.

    While one is reserved its order is neither paid in another way nor given up.
    """

    Status = Status

    order = models.ForeignKey(Order, models.PROTECT, related_name="card_payments")
    amount_cents = models.PositiveBigIntegerField(validators=[MinValueValidator(1)])
    status = models.CharField(max_length=20, choices=Status, default=Status.RESERVED)
    charge = models.CharField(max_length=64, blank=True, help_text="The provider's id of it.")
    refund = models.CharField(max_length=64, blank=True, help_text="The provider's id of it.")
    created_at = models.DateTimeField(auto_now_add=True)

    status_transitions = {
        Status.RESERVED: [Status.PAID, Status.GIVEN_UP],
        Status.PAID: [Status.REFUNDING],
        Status.REFUNDING: [Status.REFUNDED, Status.PAID],
    }

    objects = CardPaymentQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{money(self.amount_cents)} for {self.order}"

    @classmethod
    @transaction.atomic
    def reserve(cls, order: Order) -> CardPayment:
        """All that is left to be paid. Raises NotPayable."""
        (order,) = lock_rows(Order.objects.filter(pk=order.pk))
        cents = order.open_cents
        if order.status != Order.Status.CREATED or cents <= 0:
            raise NotPayable
        return cls.objects.create(order=order, amount_cents=cents)

    @transaction.atomic
    def mark_paid(self, charge: str) -> None:
        order = self._lock_order()
        self.transition_to(Status.PAID, by=order.customer)
        self.charge = charge
        self.save(update_fields=["charge"])
        # A message may have said so before: then it is no news.
        order.transition_to(Order.Status.PAID, event_id=f"card payment {self.pk}", by=order.customer)
        order.send_paid()

    def give_up(self) -> None:
        self.transition_to(Status.GIVEN_UP)

    @transaction.atomic
    def begin_refund(self) -> None:
        """Raises NotRefundable."""
        order = self._lock_order()
        (payment,) = lock_rows(CardPayment.objects.filter(pk=self.pk))
        if order.status not in REFUNDABLE or payment.status != Status.PAID:
            raise NotRefundable
        self.transition_to(Status.REFUNDING, by=order.customer)

    @transaction.atomic
    def mark_refunded(self, refund: str) -> None:
        """The order may have been shipped meanwhile: then it is refunded when it is delivered."""
        order = self._lock_order()
        self.transition_to(Status.REFUNDED, by=order.customer)
        self.refund = refund
        self.save(update_fields=["refund"])
        order.transition_to(Order.Status.REFUNDED, event_id=f"card refund {self.pk}", by=order.customer)

    def give_refund_up(self) -> None:
        self.transition_to(Status.PAID)

    def _lock_order(self) -> Order:
        """First, as everybody does."""
        (order,) = lock_rows(Order.objects.filter(pk=self.order_id))
        return order
