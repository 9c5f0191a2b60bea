"""``A = A + 1``, once per operation."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.db import transaction

from idempotency.exceptions import FingerprintMismatch, InvalidKey, OutOfBounds
from idempotency.ledger import Increment
from idempotency.models import LedgerEntry
from tests.project.models import Product

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3]


@pytest.fixture
def product():
    return Product.objects.create(name="tea", stock=5)


def stock():
    return Product.objects.get().stock


def test_an_operation_is_counted_once_and_gets_its_first_result_again(product):
    assert product.increment("stock", -3, operation_id="o1") == Increment(2, True)
    assert product.increment("stock", 10, operation_id="o2") == Increment(12, True)
    assert product.increment("stock", -3, operation_id="o1") == Increment(2, False)
    assert stock() == product.stock == 12


def test_the_ledger_says_what_came_of_it_when_and_by_whom(product):
    product.increment("stock", -3, operation_id="o1", by="nightly")
    entry = product.ledger().get()
    assert (entry.field, entry.amount, entry.value) == ("stock", "-3", "2")
    assert (entry.operation_id, entry.by, entry.subject) == ("o1", "nightly", product)
    assert entry.at is not None


def test_operations_are_apart_by_object_field_and_every_byte(product):
    other = Product.objects.create(name="cup", stock=5)
    for instance, field, operation in (
        (product, "stock", "Key-A"),
        (product, "stock", "key-a"),
        (product, "weight", "Key-A"),
        (other, "stock", "Key-A"),
    ):
        assert instance.increment(field, 1, operation_id=operation).applied
    assert (product.stock, product.weight, other.stock) == (7, 1, 6)


def test_what_a_constraint_forbids_is_refused_and_leaves_nothing(product):
    with pytest.raises(OutOfBounds, match=r"stock of .* cannot be changed by -6"):
        product.increment("stock", -6, operation_id="o1")
    assert stock() == product.stock == 5
    assert LedgerEntry.objects.count() == 0


def test_a_refused_operation_may_be_done_later(product):
    with pytest.raises(OutOfBounds):
        product.increment("stock", -6, operation_id="o1")
    product.increment("stock", 1, operation_id="o2")
    assert product.increment("stock", -6, operation_id="o1") == Increment(0, True)


def test_an_operation_that_would_not_be_possible_any_more_was_done_all_the_same(product):
    product.increment("stock", -5, operation_id="o1")
    assert product.increment("stock", -5, operation_id="o1") == Increment(0, False)


def test_an_operation_stands_for_one_amount(product):
    product.increment("stock", -3, operation_id="o1")
    with pytest.raises(FingerprintMismatch, match="o1 changed stock by -3, and now comes with -2"):
        product.increment("stock", -2, operation_id="o1")
    assert stock() == 2


def test_within_a_transaction_it_stands_or_falls_with_it(product):
    with pytest.raises(LookupError), transaction.atomic():
        product.increment("stock", -3, operation_id="o1")
        raise LookupError
    assert stock() == 5
    assert product.increment("stock", -3, operation_id="o1") == Increment(2, True)


def test_within_a_transaction_a_duplicate_and_a_refusal_leave_it_usable(product):
    product.increment("stock", -3, operation_id="o1")
    with transaction.atomic():
        assert not product.increment("stock", -3, operation_id="o1").applied
        with pytest.raises(OutOfBounds):
            product.increment("stock", -3, operation_id="o2")
        assert product.increment("stock", -2, operation_id="o3") == Increment(0, True)
    assert stock() == 0


def test_decimals_are_exact(product):
    amount = Decimal("0.1")
    for number in range(3):
        product.increment("weight", amount, operation_id=number)
    assert product.weight == Decimal("0.3")
    first = product.increment("weight", amount, operation_id=0)
    assert first == Increment(amount, False)
    assert isinstance(first.value, Decimal)


@pytest.mark.parametrize(
    ("field", "amount"),
    [
        ("stock", 1.5),
        ("stock", Decimal("1.5")),
        ("stock", True),
        ("stock", "1"),
        ("stock", 10**30),
        ("stock", Decimal("Infinity")),
        ("weight", Decimal("1E+15")),
        ("stock", None),
        ("weight", 0.1),
        ("weight", Decimal("0.0000001")),
        ("weight", Decimal("NaN")),
        ("weight", Decimal("Infinity")),
    ],
)
def test_an_amount_that_cannot_be_added_exactly_is_refused(product, field, amount):
    with pytest.raises(ValueError, match="cannot be added exactly"):
        product.increment(field, amount, operation_id="o1")
    assert LedgerEntry.objects.count() == 0


def test_decimals_add_up_to_nothing():
    product = Product.objects.create(name="cup", weight=Decimal("0.3"))
    for number in range(3):
        product.increment("weight", Decimal("-0.10"), operation_id=number)
    assert product.weight == Product.objects.get().weight == 0


def test_an_amount_with_many_zeros_is_the_same_amount(product):
    product.increment("weight", Decimal("1." + "0" * 200), operation_id="o1")
    assert not product.increment("weight", 1, operation_id="o1").applied


def test_only_the_ledgers_fields_are_counted(product):
    with pytest.raises(ValueError, match=r"'name' is not among Product.ledger_fields \(stock, weight\)"):
        product.increment("name", 1, operation_id="o1")


@pytest.mark.parametrize("operation_id", ["", None, "ü", "x" * 256])
def test_a_malformed_operation_id_is_refused(product, operation_id):
    with pytest.raises(InvalidKey, match="operation id"):
        product.increment("stock", 1, operation_id=operation_id)


def test_what_has_no_row_cannot_be_incremented(product):
    with pytest.raises(ValueError, match="was not saved yet"):
        Product(name="cup").increment("stock", 1, operation_id="o1")
    Product.objects.all().delete()
    with pytest.raises(Product.DoesNotExist):
        product.increment("stock", 1, operation_id="o1")


def test_more_than_the_column_holds_is_out_of_bounds(product):
    with pytest.raises(OutOfBounds):
        product.increment("stock", 2**63 - 1, operation_id="o1")
    assert stock() == 5


def test_entries_are_only_ever_added(product):
    product.increment("stock", 1, operation_id="o1")
    entry = product.ledger().get()
    for change in (
        entry.save,
        entry.delete,
        LedgerEntry.objects.all().delete,
        lambda: LedgerEntry.objects.update(amount="2"),
    ):
        with pytest.raises(TypeError, match="append-only"):
            change()
