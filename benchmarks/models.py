from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=60)
    price_cents = models.PositiveIntegerField()
    stock = models.PositiveBigIntegerField()

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    customer_id = models.BigIntegerField()
    quantity = models.PositiveIntegerField()
    total_cents = models.PositiveBigIntegerField()
    reference = models.CharField(max_length=60)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.reference
