"""Several rows locked at once, and rows that are locked by somebody else."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Event

import pytest
from django.db import NotSupportedError, connection, transaction

from idempotency.exceptions import OperationInProgress
from idempotency.models import StatusTransition
from idempotency.status import Outcome, lock_rows
from tests.processes.rivals import (  # noqa: F401  (fixtures)
    STUCK,
    at_each_level_here,
    not_sqlite,
    other_session,
    sessions_at,
    wait_until_somebody_waits,
)
from tests.project.models import ExpressParcel, Parcel, ParkingParcel
from tests.settings import VENDOR

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]
sqlite_only = pytest.mark.skipif(VENDOR != "sqlite", reason="is about what SQLite lacks")


@pytest.fixture
def parcels(db):
    return [Parcel.objects.create(reference=str(number)) for number in range(3)]


@pytest.fixture
def held(parcels, other_session):  # noqa: F811
    """The second parcel, which another session has locked."""
    entered, over = Event(), Event()

    def hold():
        with transaction.atomic():
            lock_rows(Parcel.objects.filter(pk=parcels[1].pk))
            entered.set()
            assert over.wait(STUCK)

    holding = other_session(hold)
    assert entered.wait(STUCK)
    yield parcels[1]
    over.set()
    holding.result()


@contextmanager
def refused_without_waiting():
    with pytest.raises(OperationInProgress, match="being worked on"), transaction.atomic():
        yield


def test_rows_come_by_primary_key_whatever_the_order_asked_for(parcels):
    with transaction.atomic():
        assert lock_rows(Parcel.objects.order_by("-pk")) == parcels


def test_only_rows_of_the_queryset_are_locked(parcels):
    with transaction.atomic():
        assert lock_rows(Parcel.objects.exclude(reference="1")) == [parcels[0], parcels[2]]


def test_rows_that_are_related_may_be_read_along():
    express = ExpressParcel.objects.create(reference="a")
    with transaction.atomic():
        assert lock_rows(ExpressParcel.objects.select_related("parkingparcel_ptr")) == [express]


@pytest.mark.parametrize(
    "rows",
    [Parcel.objects.all()[:2], Parcel.objects.distinct(), Parcel.objects.union(Parcel.objects.all())],
    ids=["slice", "distinct", "union"],
)
def test_what_no_database_locks_row_by_row_is_refused(rows):
    with pytest.raises(ValueError, match="one by one"), transaction.atomic():
        lock_rows(rows)


def test_rows_are_locked_where_they_are_written(parcels, monkeypatch):
    monkeypatch.setattr("django.db.router.db_for_read", lambda *args, **hints: "replica")
    with transaction.atomic():
        assert len(lock_rows(Parcel.objects.all())) == Parcel.objects.using("default").count()


def test_outside_a_transaction_nothing_could_stay_locked(parcels):
    with pytest.raises(transaction.TransactionManagementError):
        lock_rows(Parcel.objects.all())


@not_sqlite
def test_a_row_that_has_changed_meanwhile_and_no_longer_matches_is_left_out(parcels, other_session):  # noqa: F811
    def lock():
        with transaction.atomic():
            return lock_rows(Parcel.objects.filter(note=""))

    with transaction.atomic():
        Parcel.objects.filter(pk=parcels[1].pk).update(note="taken")
        locking = other_session(lock)
        wait_until_somebody_waits()
    assert locking.result() == [parcels[0], parcels[2]]


@not_sqlite
@at_each_level_here
def test_rows_that_somebody_has_locked_can_be_left_out(sessions_at, parcels, held):  # noqa: F811
    with transaction.atomic():
        assert lock_rows(Parcel.objects.all(), skip_locked=True) == [parcels[0], parcels[2]]


@not_sqlite
@at_each_level_here
def test_who_does_not_wait_is_refused_when_one_of_the_rows_is_locked(sessions_at, held):  # noqa: F811
    with refused_without_waiting():
        lock_rows(Parcel.objects.all(), nowait=True)


@not_sqlite
@at_each_level_here
def test_who_does_not_wait_gets_the_rows_when_none_is_locked(sessions_at, parcels):  # noqa: F811
    with transaction.atomic():
        assert lock_rows(Parcel.objects.all(), nowait=True) == parcels


@not_sqlite
@pytest.mark.psycopg3
@at_each_level_here
def test_a_change_that_does_not_wait_is_refused_when_its_row_is_locked(sessions_at, parcels, held):  # noqa: F811
    with pytest.raises(OperationInProgress, match="being worked on"):
        held.transition_to("packed", event_id="1", nowait=True)
    with pytest.raises(OperationInProgress, match="being worked on"), held.transition("packed", nowait=True):
        pytest.fail("the row was locked")
    assert parcels[0].transition_to("packed", event_id="1", nowait=True) == Outcome.APPLIED


@not_sqlite
def test_a_change_that_was_refused_without_waiting_leaves_the_transaction_around_it_whole(parcels, held):
    """On MariaDB; PostgreSQL's is broken by any error, and the savepoint mends it."""
    with transaction.atomic():
        parcels[0].transition_to("packed", event_id="1")
        with refused_without_waiting():
            held.transition_to("packed", event_id="1", nowait=True)
    assert StatusTransition.objects.get().object_id == str(parcels[0].pk)


@sqlite_only
@pytest.mark.parametrize("option", ["nowait", "skip_locked"])
def test_sqlite_cannot_choose_whether_to_wait_and_says_so(option):
    refusal = pytest.raises(NotSupportedError, match=f"SQLite cannot lock rows with {option}")
    with refusal, transaction.atomic():
        lock_rows(Parcel.objects.all(), **{option: True})


@sqlite_only
@pytest.mark.parametrize("model", [Parcel, ParkingParcel])
def test_sqlite_says_so_of_a_change_too_and_changes_nothing(model):
    parcel = model.objects.create(reference="a")
    with pytest.raises(NotSupportedError, match="SQLite cannot lock rows with nowait"):
        parcel.transition_to("packed", event_id="1", nowait=True)
    assert not connection.in_atomic_block
    assert parcel.transition_to("packed", event_id="1") == Outcome.APPLIED
