from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import Q

from idempotency.exceptions import OutOfBounds
from idempotency.ledger import LedgerMixin
from idempotency.status import lock_rows
from shop_example.exceptions import InsufficientBalance, NotPayable, Overpaid
from shop_example.faults import work_slowly
from shop_example.models.references import new_reference
from shop_example.money import money

if TYPE_CHECKING:
    from shop_example.models.orders import Order
    from shop_example.models.products import Product


class Customer(LedgerMixin, models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="customer")
    balance_cents = models.BigIntegerField(default=0)
    phone = models.CharField(max_length=20, blank=True)

    ledger_fields = ("balance_cents",)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(balance_cents__gte=0), name="customer_balance_not_negative")
        ]

    def __str__(self) -> str:
        return str(self.user)

    @property
    def balance(self) -> str:
        return money(self.balance_cents)

    @transaction.atomic
    def place_order(self, product: Product, quantity: int, note: str = "") -> Order:
        self._lock()
        reference = new_reference()
        product.deduct(quantity, reference)
        return self.orders.create(
            product=product,
            quantity=quantity,
            total_cents=product.price_cents * quantity,
            reference=reference,
            note=note,
        )

    @transaction.atomic
    def pay(self, order: Order, amount_cents: int) -> Payment:
        """Pay an order of one's own, or a part of it: two equal payments for one order may both be meant.

        With its last cent the order is paid, which the payment's own ``order`` knows.
        """
        # From here on no other payment of this order is under way, and nobody cancels it.
        (order,) = lock_rows(self.orders.filter(pk=order.pk))
        if order.status != order.Status.CREATED:
            raise NotPayable
        self._lock()
        payment = self.payments.create(order=order, amount_cents=amount_cents)
        work_slowly()
        try:
            self.increment("balance_cents", -amount_cents, operation_id=f"payment {payment.pk}", by=self)
        except OutOfBounds as error:
            raise InsufficientBalance from error
        left = order.open_cents
        if left < 0:
            raise Overpaid
        if left == 0:
            order.transition_to(order.Status.PAID, by=self)
            order.send_paid()
        return payment

    @transaction.atomic
    def check_out(self, product: Product, quantity: int, note: str = "") -> Order:
        """Place an order and pay the whole of it, or neither."""
        order = self.place_order(product, quantity, note)
        return self.pay(order, order.total_cents).order

    def _lock(self) -> None:
        """Before a row is written that refers to the customer, for the reason that Product.deduct() has."""
        lock_rows(Customer.objects.filter(pk=self.pk))


class Payment(models.Model):
    order = models.ForeignKey("Order", models.PROTECT, related_name="payments")
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="payments")
    amount_cents = models.PositiveBigIntegerField(validators=[MinValueValidator(1)])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{money(self.amount_cents)} for {self.order}"
