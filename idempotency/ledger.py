"""``A = A + 1``, once per operation."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, connections, models, router, transaction
from django.db.models import F

from idempotency.columns import OwnedColumnsMixin
from idempotency.database import DatabaseNow, insert_once
from idempotency.exceptions import FingerprintMismatch, OutOfBounds
from idempotency.keys import Scope, digest, named, valid_id
from idempotency.models import LedgerEntry
from idempotency.models.subjects import AppendOnlyQuerySet, column_of, owner_of, primary_key, subject_columns
from idempotency.status.row import gone
from idempotency.transactions import repeated, translated

Number = int | Decimal


class Increment(NamedTuple):
    """``value``: what the field was right after the increment, the first time. ``applied``: whether that
    was now; when not, nothing was changed."""

    value: Number
    applied: bool


class LedgerMixin(OwnedColumnsMixin):
    """Amounts that are increased and decreased, each time once per operation::

        class Product(LedgerMixin, models.Model):
            stock = models.IntegerField(default=0)
            ledger_fields = ("stock",)

        product.increment("stock", -3, operation_id="order-7")

    Every increment is written to the ledger (LedgerEntry) in its own transaction. ``save()`` leaves the
    amounts of an existing row alone. Put a CheckConstraint on what must not fall below zero.
    """

    #: Names of integer and decimal fields.
    ledger_fields: ClassVar[Collection[str]] = ()

    class Meta:
        abstract = True

    def increment(
        self, field: str, amount: Number, *, operation_id: str | int | UUID, by: Scope | None = None
    ) -> Increment:
        """Add an amount, which may be negative, once: the same operation again changes nothing, and gets
        the first one's result. The instance then has the field's new value.

        ``operation_id``: 1 to 255 printable ASCII characters, per object and field. ``by``: who, for the
        ledger; see transition_to(). Raises OutOfBounds (a constraint of the database forbids the new
        value), FingerprintMismatch (the operation had another amount), InvalidKey, ValueError,
        OperationInProgress (a conflict in the database, within a transaction around this one),
        StoreUnavailable, or DoesNotExist.
        """
        posting = Posting(self, field, amount, valid_id(operation_id, "operation id"), named(by))
        with translated():
            increment = repeated(posting.post, using=posting.using)
        if increment.applied:
            setattr(self, field, increment.value)
            self.note_owned([field])
        return increment

    def ledger(self) -> AppendOnlyQuerySet:
        """The object's increments (LedgerEntry), oldest first."""
        using = router.db_for_write(type(self), instance=self)
        entries: AppendOnlyQuerySet = LedgerEntry.objects.using(using).about(self)
        return entries.order_by("pk")

    @classmethod
    def owned_columns(cls) -> dict[str, str]:
        return {**super().owned_columns(), **dict.fromkeys(cls.ledger_fields, "increment()")}


class Posting:
    """One increment on its way into field and ledger, which get it together or not at all."""

    def __init__(self, instance: LedgerMixin, field: str, amount: Number, operation_id: str, by: str) -> None:
        model = type(instance)
        if field not in model.ledger_fields:
            known = ", ".join(model.ledger_fields) or "none"
            raise ValueError(f"{field!r} is not among {model.__name__}.ledger_fields ({known}).")
        self.instance, self.operation_id, self.by = instance, operation_id, by
        self.using = router.db_for_write(model, instance=instance)
        self.owner = owner_of(model, field)
        self.field = column_of(model, field)
        self.amount = valid_amount(self.field, amount)
        self.pk = primary_key(instance, self.owner)
        if self.pk is None:
            raise ValueError(f"This {model.__name__} was not saved yet: it has nothing to increment.")

    @property
    def row(self) -> models.QuerySet[Any]:
        return self.owner._base_manager.using(self.using).filter(pk=self.pk)

    def post(self) -> Increment:
        nested = connections[self.using].in_atomic_block
        try:
            with transaction.atomic(using=self.using):
                return self._post()
        except (DoneBefore, OutOfBounds):
            # What is not allowed any more may have been done when it was.
            if first := self._first(locking=nested):
                return first
            raise

    def _post(self) -> Increment:
        self._add()
        # The row is locked by now: nobody else's increment lies between the two.
        self.pk, value = self.row.values_list("pk", self.field.name).get()
        if value is None:
            raise OutOfBounds(
                f"{self.field.name} of {self.instance} is NULL, to which nothing can be added: set a value."
            )
        entry = LedgerEntry(
            **subject_columns(self.owner, self.pk, self.using),
            field=self.field.name,
            operation_digest=self._operation_digest,
            operation_id=self.operation_id,
            amount=str(self.amount),
            value=str(value),
            by=self.by,
            at=DatabaseNow(),
        )
        if not insert_once(entry, self.using):
            raise DoneBefore
        return Increment(value, True)

    def _add(self) -> None:
        is_exact = connections[self.using].vendor != "sqlite"
        try:
            added = F(self.field.name) + self.amount if is_exact else self._sum()
            updated = self.row.update(**{self.field.name: added})
        except (IntegrityError, DataError, OverflowError, InvalidOperation, ValidationError) as error:
            raise OutOfBounds(
                f"{self.field.name} of {self.instance} cannot be changed by {self.amount}: the database does "
                f"not allow the new value ({error})."
            ) from error
        if not updated:
            raise gone(self.instance)

    def _sum(self) -> Number | None:
        """SQLite adds decimals as floats, and lets integers overflow into them. Its transaction is the only
        one that writes, so that nothing comes between reading and writing."""
        value = self.row.values_list(self.field.name, flat=True).first()
        return None if value is None else self.field.clean(value + self.amount, None)

    def _first(self, *, locking: bool) -> Increment | None:
        """What the operation's first run led to. Raises FingerprintMismatch when that was another amount."""
        # As it is stored, as in _post(): a collation may find it by another spelling.
        self.pk = self.row.values_list("pk", flat=True).first() or self.pk
        subject = subject_columns(self.owner, self.pk, self.using)
        del subject["object_id"]
        entries = LedgerEntry.objects.using(self.using).filter(
            **subject, operation_digest=self._operation_digest
        )
        if locking and connections[self.using].vendor == "mysql":
            # A plain read's snapshot may be older than the entry.
            entries = entries.select_for_update()
        if (entry := entries.first()) is None:
            return None
        if self.field.to_python(entry.amount) != self.amount:
            raise FingerprintMismatch(
                f"The operation {self.operation_id} changed {self.field.name} by {entry.amount}, and now "
                f"comes with {self.amount}: a new operation needs an id of its own."
            )
        return Increment(self.field.to_python(entry.value), False)

    @property
    def _operation_digest(self) -> bytes:
        return digest(b"idem-operation", (self.field.name, self.operation_id))


class DoneBefore(Exception):
    """Makes the transaction roll back; never leaves it."""


def valid_amount(field: models.Field[Any, Any], amount: Any) -> Number:
    """The amount as the field has it, exactly; or ValueError."""
    is_number = isinstance(amount, int | Decimal) and not isinstance(amount, bool)
    try:
        exact = field.to_python(amount) if is_number else None
    except (ValidationError, OverflowError, ValueError):
        exact = None
    if exact is None or exact != amount or not fits(field, exact):
        raise ValueError(f"{field.name} is a {type(field).__name__}: {amount!r} cannot be added exactly.")
    return exact.normalize() if isinstance(exact, Decimal) else exact


def fits(field: Any, amount: Number) -> bool:
    """Whether the column could hold it, its sign aside."""
    if isinstance(amount, int):
        return abs(amount) < 2**63
    exponent = amount.normalize().as_tuple().exponent
    if not isinstance(exponent, int):  # infinite, or no number
        return False
    has_room = amount.adjusted() < field.max_digits - field.decimal_places
    return bool(has_room and -exponent <= field.decimal_places)
