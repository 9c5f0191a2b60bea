from uuid import uuid4

from django.db import models

from idempotency.ledger import LedgerMixin
from idempotency.locks import FencedMixin
from idempotency.status import ByRank, BySequence, Park, StatusMixin, Transition


class Product(LedgerMixin, models.Model):
    name = models.CharField(max_length=50)
    stock = models.IntegerField(default=0)
    weight = models.DecimalField(max_digits=20, decimal_places=6, default=0)

    ledger_fields = ("stock", "weight")

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


LIFE = {
    "new": ["packed", "lost"],
    "packed": ["sent", "lost"],
    "sent": ["delivered", "lost"],
}


class Parcel(StatusMixin, models.Model):
    """Reads nothing and causes nothing: changes are one statement. What is not allowed is rejected."""

    reference = models.CharField(max_length=50, unique=True)
    note = models.CharField(max_length=50, default="")
    status = models.CharField(max_length=20, default="new")

    status_transitions = {**LIFE, "new": ["packed", "lost", "new"]}
    status_lookup = "reference"


class TellingModel(StatusMixin, models.Model):
    """Each change that is applied leaves an Order, so that what it causes is something to count."""

    reference = models.CharField(max_length=50, unique=True)
    note = models.CharField(max_length=50, default="")
    status = models.CharField(max_length=20, default="new")

    status_transitions = LIFE
    status_lookup = "reference"

    class Meta:
        abstract = True

    def on_transition(self, transition: Transition) -> None:
        note = transition.from_status
        Order.objects.using(self._state.db).create(
            reference=self.reference, owner=transition.to_status, note=note
        )


class ParkingParcel(TellingModel):
    status_ordering = Park()


class ExpressParcel(ParkingParcel):
    """Its status is in the parent's table."""

    courier = models.CharField(max_length=50, default="")


class RankedParcel(TellingModel):
    status_transitions = {
        "new": ["packed", "sent", "delivered"],
        "packed": ["sent", "delivered"],
        "sent": ["delivered"],
    }
    status_ordering = ByRank("new", "packed", "sent", "delivered")


class NumberedParcel(TellingModel):
    version = models.BigIntegerField(null=True)

    status_transitions = RankedParcel.status_transitions
    status_ordering = BySequence("version")


class NumberedParkingParcel(TellingModel):
    """Its graph has short cuts: only numbers say what is too early."""

    version = models.BigIntegerField(null=True)

    status_transitions = {**RankedParcel.status_transitions, "delivered": ["sent"]}
    status_ordering = Park(sequence="version")


class Door(StatusMixin, models.Model):
    """Goes round and round, has numbers for statuses, an odd primary key, and a column of another name."""

    class State(models.IntegerChoices):
        OPEN = 1
        CLOSED = 2
        LOCKED = 3

    number = models.UUIDField(primary_key=True, default=uuid4)
    state = models.PositiveSmallIntegerField(choices=State, default=State.OPEN, db_column="door_state")
    hinge = models.ForeignKey(Parcel, models.SET_NULL, null=True)

    status_field = "state"
    status_transitions = {
        State.OPEN: [State.CLOSED],
        State.CLOSED: [State.OPEN, State.LOCKED],
        State.LOCKED: [State.CLOSED],
    }


class Locker(StatusMixin, models.Model):
    """Its primary key is a text, which collations compare in their own ways."""

    name = models.CharField(max_length=50, primary_key=True)
    status = models.CharField(max_length=20, default="free")

    status_transitions = {"free": ["taken"], "taken": ["free"]}


class Guarded(FencedMixin, models.Model):
    """Written by the holder of its lock only."""

    value = models.CharField(max_length=50, default="")

    def lock_name(self) -> str:
        return f"guarded:{self.pk}"
