"""The shop's rows, and the operations that change them.

Each operation is one transaction with conditional updates, so none oversells or overdraws however
many run at once. That makes concurrent operations safe; it cannot tell a retry from a new one.
Money is in cents.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import F, Q, Sum

from shop_example.exceptions import InsufficientBalance, OutOfStock, Overpaid
from shop_example.faults import work_slowly


def new_reference() -> str:
    return f"order-{uuid.uuid4()}"


def money(cents: int) -> str:
    return f"{cents / 100:.2f}"


class Product(models.Model):
    name = models.CharField(max_length=100, unique=True)
    price_cents = models.PositiveIntegerField()
    stock = models.IntegerField(default=0)

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=Q(stock__gte=0), name="product_stock_not_negative")]

    def __str__(self) -> str:
        return self.name

    @property
    def price(self) -> str:
        return money(self.price_cents)

    @transaction.atomic
    def deduct(self, quantity: int, order_reference: str) -> StockDeduction:
        """Take from the stock for an order, of this shop or of a service elsewhere."""
        with_enough = Product.objects.filter(pk=self.pk, stock__gte=quantity)
        if not with_enough.update(stock=F("stock") - quantity):
            raise OutOfStock
        work_slowly()
        return StockDeduction.objects.create(product=self, quantity=quantity, order_reference=order_reference)


class Customer(models.Model):
    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="customer")
    balance_cents = models.BigIntegerField(default=0)

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
        reference = new_reference()
        product.deduct(quantity, reference)
        return Order.objects.create(
            customer=self,
            product=product,
            quantity=quantity,
            total_cents=product.price_cents * quantity,
            reference=reference,
            note=note,
        )

    @transaction.atomic
    def pay(self, order: Order, amount_cents: int) -> Payment:
        """Pay an order, or a part of it: two equal payments for one order may both be meant."""
        with_enough = Customer.objects.filter(pk=self.pk, balance_cents__gte=amount_cents)
        if not with_enough.update(balance_cents=F("balance_cents") - amount_cents):
            raise InsufficientBalance
        # The customer's row is locked by now, so no other payment of this order is under way.
        paid = order.payments.aggregate(paid=Sum("amount_cents"))["paid"] or 0
        if paid + amount_cents > order.total_cents:
            raise Overpaid
        work_slowly()
        return Payment.objects.create(order=order, customer=self, amount_cents=amount_cents)

    @transaction.atomic
    def check_out(self, product: Product, quantity: int, note: str = "") -> Order:
        """Place an order and pay the whole of it, or neither."""
        order = self.place_order(product, quantity, note)
        self.pay(order, order.total_cents)
        return order


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="orders")
    product = models.ForeignKey(Product, models.PROTECT, related_name="orders")
    quantity = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    total_cents = models.PositiveBigIntegerField()
    reference = models.CharField(max_length=64, unique=True, default=new_reference)
    note = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.reference

    @property
    def total(self) -> str:
        return money(self.total_cents)

    @property
    def paid(self) -> str:
        return money(self.payments.aggregate(paid=Sum("amount_cents"))["paid"] or 0)


class StockDeduction(models.Model):
    product = models.ForeignKey(Product, models.PROTECT, related_name="deductions")
    quantity = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    # Text, since the order may belong to a service with a database of its own.
    order_reference = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.quantity} for {self.order_reference}"


class Payment(models.Model):
    order = models.ForeignKey(Order, models.PROTECT, related_name="payments")
    customer = models.ForeignKey(Customer, models.PROTECT, related_name="payments")
    amount_cents = models.PositiveBigIntegerField(validators=[MinValueValidator(1)])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{money(self.amount_cents)} for {self.order}"
