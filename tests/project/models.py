from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=50)
    stock = models.IntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(stock__gte=0), name="stock_not_negative")]


class Order(models.Model):
    reference = models.CharField(max_length=300)
    owner = models.CharField(max_length=50, default="")
    note = models.CharField(max_length=50, default="")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~models.Q(note="forbidden"), name="note_not_forbidden")
        ]
