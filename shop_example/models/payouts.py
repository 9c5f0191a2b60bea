from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models

from shop_example.models.products import Product
from shop_example.money import money


class Payout(models.Model):
    """What a product's maker gets for one day's sales. A correction is a further row of the same day, so
    that no unique constraint could tell a settlement that is run again."""

    product = models.ForeignKey(Product, models.PROTECT, related_name="payouts")
    day = models.DateField()
    amount_cents = models.PositiveBigIntegerField(validators=[MinValueValidator(1)])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{money(self.amount_cents)} for {self.product}, {self.day}"
