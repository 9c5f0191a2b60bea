"""The nightly settlement of one day's sales: as it is, under a lock, and with a guard that outlives it."""

from __future__ import annotations

from datetime import date, timedelta

from django.db.models import Sum

from idempotency.decorators import idempotent
from idempotency.locks import first_wins, lock
from idempotency.unique_ids import unique_ids
from shop_example.faults import work_slowly
from shop_example.models import Payment, Payout

# For whoever comes while the first is at work, and takes over if that one fails.
WAIT = timedelta(minutes=1)


def book(day: date) -> int:
    """Book a payout for each product that was paid for on this day. How many there are."""
    sales = Payment.objects.filter(created_at__date=day).order_by("order__product")
    sums = list(sales.values_list("order__product").annotate(Sum("amount_cents")))
    work_slowly()
    return len(
        Payout.objects.bulk_create(
            Payout(day=day, product_id=product, amount_cents=cents) for product, cents in sums
        )
    )


def book_under_a_lock(day: date) -> int | None:
    """Never by two at once; and once more by whoever comes when the first has ended."""
    with lock(f"settlement:{day}", on_busy="skip") as held:
        return book(day) if held else None


@idempotent(guard=first_wins(wait=WAIT, done=unique_ids("settlements")), key="day")
def settle(day: date) -> int | None:
    """``book()`` once, by whichever machine is the first. None: it was done before."""
    return book(day)
