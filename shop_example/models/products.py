from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import Q

from idempotency.exceptions import OutOfBounds
from idempotency.ledger import LedgerMixin
from idempotency.status import lock_rows
from shop_example.exceptions import OutOfStock
from shop_example.faults import work_slowly
from shop_example.money import money


class Product(LedgerMixin, models.Model):
    name = models.CharField(max_length=100, unique=True)
    price_cents = models.PositiveIntegerField()
    stock = models.IntegerField(default=0)

    ledger_fields = ("stock",)

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
        """Take from the stock for an order, of this shop or of a service elsewhere. Two deductions for one
        order may both be meant."""
        # The deduction refers to the product. InnoDB locks it for that, but so that two can have the lock,
        # and neither could then change the stock.
        lock_rows(Product.objects.filter(pk=self.pk))
        deduction = self.deductions.create(quantity=quantity, order_reference=order_reference)
        work_slowly()
        try:
            self.increment("stock", -quantity, operation_id=f"deduction {deduction.pk}")
        except OutOfBounds as error:
            raise OutOfStock from error
        return deduction


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
