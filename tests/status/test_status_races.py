"""Eight processes at once that change the same status or amount, or lock the same rows."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from itertools import accumulate, chain, pairwise

import pytest
from django.db import transaction

from idempotency.exceptions import OperationInProgress
from idempotency.models import LedgerEntry, ParkedEvent, StatusTransition
from idempotency.status import Outcome
from tests.processes.rivals import (  # noqa: F401  (fixtures)
    answers,
    at_each_level,
    at_each_level_here,
    chains,
    not_sqlite,
    other_session,
    sessions_at,
)
from tests.project.models import Door, Order, Parcel, ParkingParcel, Product
from tests.settings import VENDOR

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]
PROCESSES = 8


def told(fight, isolation="", rounds=50, processes=PROCESSES):
    """How often each answer was given."""
    plan = {"fight": fight, "processes": processes, "rounds": rounds}
    told = Counter(chain.from_iterable(answers("fights", plan, isolation)))
    assert told.total() == processes * rounds
    return told


@pytest.mark.psycopg3
@at_each_level
def test_every_event_is_applied_once_when_two_processes_have_it_and_all_want_one_row(isolation):
    Parcel.objects.create(reference="a")
    assert told("stay", isolation, rounds=100) == {"applied": 400, "duplicate": 400}
    events = StatusTransition.objects.values_list("event_id", flat=True)
    assert len(events) == len(set(events)) == 400


@at_each_level
def test_what_is_done_in_a_guard_is_done_once_per_event_too(isolation):
    Parcel.objects.create(reference="a")
    assert told("stay_guarded", isolation) == {"applied": 200, "duplicate": 200}
    assert set(Counter(Order.objects.values_list("reference", flat=True)).values()) == {1}
    assert Order.objects.count() == StatusTransition.objects.count() == 200


@at_each_level
def test_without_events_what_is_applied_is_an_unbroken_chain(isolation):
    door = Door.objects.create()
    answered = told("swing", isolation)
    assert set(answered) == {"applied", "duplicate"}
    door.refresh_from_db()
    assert answered["applied"] == StatusTransition.objects.count()
    (only,) = chains().values()
    assert only[-1] == str(door.state)
    assert all(before != after for before, after in pairwise(only))


@at_each_level
def test_a_status_that_several_lead_to_is_reached_from_the_one_that_was_there(isolation):
    parcels = Parcel.objects.bulk_create(Parcel(reference=str(number)) for number in range(200))
    answered = told("lose_or_move_on", isolation, rounds=len(parcels))
    assert set(answered) <= {"applied", "duplicate", "rejected"}
    assert answered["applied"] == StatusTransition.objects.count()
    ends = {str(pk): status for pk, status in Parcel.objects.values_list("pk", "status")}
    assert {subject: each[-1] for subject, each in chains().items()} == ends
    assert {each[0] for each in chains().values()} == {"new"}


@pytest.mark.psycopg3
@at_each_level
def test_every_operation_is_posted_once_and_the_ledger_adds_up(isolation):
    product = Product.objects.create(stock=1000)
    answered = told("post", isolation, rounds=101)
    assert answered == {True: 404, False: 404}
    product.refresh_from_db()
    entries = [(int(amount), int(value)) for amount, value in ledger()]
    running = [1000 + each for each in accumulate(amount for amount, _ in entries)]
    assert [value for _, value in entries] == running
    assert product.stock == running[-1] == 1000 - 4


def ledger():
    return LedgerEntry.objects.order_by("pk").values_list("amount", "value")


# Several rows


@pytest.fixture
def wanted(db):
    """Ten of many, or InnoDB would not use the index; which has them in the opposite order."""
    numbers = range(200)
    Parcel.objects.bulk_create(
        Parcel(reference=str(999 - number), note="" if number % 20 else "wanted") for number in numbers
    )
    return Parcel.objects.filter(note="wanted").count()


@at_each_level
def test_who_locks_rows_together_is_never_refused_whatever_the_order(wanted, isolation):
    assert told("lock_together", isolation, rounds=30, processes=4) == {"done": 120}
    assert set(Counter(Order.objects.values_list("reference", flat=True)).values()) == {120}


@at_each_level
def test_who_changes_rows_that_were_locked_together_causes_no_deadlock(wanted, isolation):
    answered = told("change_together", isolation, rounds=15, processes=4)
    # Its snapshot is older than the lock, under REPEATABLE READ.
    overtaken = answered.pop("overtaken", 0)
    assert not overtaken or (VENDOR, isolation) == ("postgresql", "repeatable read")
    assert answered == {"done": 60 - overtaken}
    assert StatusTransition.objects.count() == wanted * answered["done"]


@not_sqlite
@at_each_level
def test_who_locks_them_one_by_one_in_opposite_orders_is(wanted, isolation):
    assert told("lock_one_by_one", isolation, rounds=300, processes=4)["refused"]


# Snapshots


@at_each_level_here
@not_sqlite
def test_an_event_that_was_parked_after_the_snapshot_is_not_forgotten(sessions_at, other_session):  # noqa: F811
    """What is parked must either be seen by whoever makes it possible, or be in their way."""
    parcel = ParkingParcel.objects.create(reference="a")
    theirs = ParkingParcel.objects.get()
    is_in_the_way = (VENDOR, sessions_at) == ("postgresql", "repeatable read")
    with pytest.raises(OperationInProgress) if is_in_the_way else nullcontext(), transaction.atomic():
        assert not ParkedEvent.objects.exists()
        assert other_session(theirs.transition_to, "sent", event_id="2").result() == Outcome.PARKED
        parcel.transition_to("packed", event_id="1")
    parcel.transition_to("packed", event_id="1")
    parcel.refresh_from_db()
    assert parcel.status == "sent"
    assert not ParkedEvent.objects.exists()


@at_each_level_here
@not_sqlite
def test_a_row_that_was_inserted_after_the_snapshot_is_found_or_looked_for_again(sessions_at, other_session):  # noqa: F811
    cannot_be_seen = (VENDOR, sessions_at) == ("postgresql", "repeatable read")
    with pytest.raises(OperationInProgress) if cannot_be_seen else nullcontext(), transaction.atomic():
        assert not Parcel.objects.exists()
        other_session(Parcel.for_event, "a", defaults={"note": "theirs"}).result()
        Parcel.for_event("a", defaults={})
    assert Parcel.for_event("a", defaults={}).note == "theirs"
