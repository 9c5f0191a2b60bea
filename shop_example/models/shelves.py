from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models

from idempotency.locks import FencedMixin
from shop_example.exceptions import OutOfStock
from shop_example.models.products import Product


class Shelf(FencedMixin, models.Model):
    """Pieces of a product in one place. Their number is read, thought about, and written back: see
    ``shop_example.picking``."""

    product = models.ForeignKey(Product, models.PROTECT, related_name="shelves")
    place = models.CharField(max_length=20, unique=True)
    pieces = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name_plural = "shelves"

    def __str__(self) -> str:
        return self.place

    def lock_name(self) -> str:
        return f"shelf:{self.pk}"

    def pieces_without(self, quantity: int) -> int:
        """How many are left without so many. Raises OutOfStock."""
        if quantity > self.pieces:
            raise OutOfStock
        return self.pieces - quantity


class Pick(models.Model):
    """Pieces that were handed out."""

    shelf = models.ForeignKey(Shelf, models.PROTECT, related_name="picks")
    quantity = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.quantity} off {self.shelf}"
