from django.db import models

from idempotency.status import StatusMixin, Transition


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


class PlainStatus(models.Model):
    """A status as it is written by hand."""

    status = models.CharField(max_length=20, default="open")

    def __str__(self) -> str:
        return self.status


class PlainLog(models.Model):
    """A log as it is written by hand: an event is applied once to a row."""

    row = models.ForeignKey(PlainStatus, on_delete=models.CASCADE, db_constraint=False)
    event_id = models.CharField(max_length=60)
    from_status = models.CharField(max_length=20)
    to_status = models.CharField(max_length=20)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=("row", "event_id"), name="bench_event_once")]

    def __str__(self) -> str:
        return self.event_id


class GuardedStatus(StatusMixin, models.Model):
    """Reads nothing for a change: one statement on PostgreSQL, two elsewhere."""

    status = models.CharField(max_length=20, default="open")

    status_transitions = {"open": ["open", "closed"]}

    def __str__(self) -> str:
        return self.status


class LockedStatus(StatusMixin, models.Model):
    """Its changes cause something, so that each is made under a lock."""

    status = models.CharField(max_length=20, default="open")

    status_transitions = {"open": ["open", "closed"]}

    def __str__(self) -> str:
        return self.status

    def on_transition(self, transition: Transition) -> None:
        pass
