"""Which rows InnoDB locks for a change of status, and which it would lock for other queries."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import count
from threading import Barrier

import pytest
from django.db import OperationalError, connection, transaction

from idempotency.database import LOCK_WAIT_TIMEOUT, DatabaseNow, error_number, insert_once
from idempotency.exceptions import OperationInProgress
from idempotency.models import StatusTransition
from idempotency.models.subjects import event_digest, subject_columns
from idempotency.status import Outcome, lock_rows
from tests.processes.rivals import (  # noqa: F401  (fixtures)
    STUCK,
    at_each_level_here,
    mariadb_only,
    other_session,
    sessions_at,
    wait_until_somebody_waits,
)
from tests.project.models import Order, Parcel, ParkingParcel

pytestmark = [
    mariadb_only,
    pytest.mark.race,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("sessions_at"),
]
each_level = at_each_level_here
REPEATABLE_READ = "repeatable read"
# Inserting what another test has deleted locks its neighbours, until InnoDB has purged it.
NEVER_USED = count(200)


@pytest.fixture
def parcels(sessions_at):  # noqa: F811
    return [Parcel.objects.create(reference=str(number), note="n") for number in (122, 123, 124)]


@pytest.fixture
def refused(other_session):  # noqa: F811
    """``refused(function)``: whether another session, which does not wait, is kept from it by a lock."""

    def attempt(function):
        try:
            with transaction.atomic():
                execute("SET SESSION innodb_lock_wait_timeout = 0")
                function()
                transaction.set_rollback(True)
        except (OperationalError, OperationInProgress) as error:
            cause = error if isinstance(error, OperationalError) else error.__cause__
            assert error_number(cause) == LOCK_WAIT_TIMEOUT, cause
            return True
        return False

    return lambda function: other_session(attempt, function).result()


def execute(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)


def lock(**where):
    list(Parcel.objects.filter(**where).select_for_update())


def lock_literally(number):
    execute(f"SELECT * FROM project_parcel WHERE reference = {number} FOR UPDATE")


def insert():
    Parcel.objects.create(reference="125", note="other")


def assert_only_one_is_locked(refused, parcels, locked):
    assert [refused(partial(lock, pk=each.pk)) for each in parcels] == [each == locked for each in parcels]
    assert not refused(insert)


@each_level
@pytest.mark.parametrize("options", [{}, {"event_id": "1"}], ids=["", "event"])
def test_a_change_locks_its_row_and_no_other(parcels, refused, options):
    with parcels[1].transition("packed", **options):
        assert_only_one_is_locked(refused, parcels, parcels[1])


@each_level
def test_other_objects_are_changed_meanwhile_under_the_same_event_id(parcels, refused):
    with parcels[1].transition("packed", event_id="1"):
        assert not refused(partial(parcels[0].transition_to, "packed", event_id="1"))
        assert not refused(partial(parcels[2].transition_to, "packed", event_id="1"))
        assert refused(partial(parcels[1].transition_to, "packed", event_id="2"))


@each_level
def test_a_number_for_a_column_of_texts_locks_one_row(parcels, refused):
    with Parcel.for_event(123).transition("packed", event_id=1):
        assert_only_one_is_locked(refused, parcels, parcels[1])


@each_level
@pytest.mark.parametrize("locking", [lock_rows, lambda rows: list(rows.select_for_update())])
def test_a_number_in_a_filter_does_too(parcels, refused, locking):
    with transaction.atomic():
        assert locking(Parcel.objects.filter(reference=123)) == [parcels[1]]
        assert_only_one_is_locked(refused, parcels, parcels[1])


@each_level
def test_an_object_that_was_not_there_is_inserted_beside_others(parcels, refused):
    ours, theirs = next(NEVER_USED), next(NEVER_USED)
    with transaction.atomic(), Parcel.for_event(ours, defaults={}).transition("packed", event_id=1):
        assert_only_one_is_locked(refused, parcels, None)
        assert not refused(lambda: Parcel.for_event(theirs, defaults={}))


# What the primary key spares them


@each_level
def test_a_literal_number_against_texts_keeps_others_out(parcels, refused, sessions_at):  # noqa: F811
    with transaction.atomic():
        lock_literally(123)
        assert refused(partial(lock_literally, 122))
        # READ COMMITTED gives the rows back that do not match.
        assert refused(partial(lock, pk=parcels[0].pk)) is (sessions_at == REPEATABLE_READ)
        assert refused(insert) is (sessions_at == REPEATABLE_READ)


@each_level
def test_a_column_without_an_index_keeps_others_out(parcels, refused, sessions_at):  # noqa: F811
    Parcel.objects.filter(pk=parcels[1].pk).update(note="other")
    with transaction.atomic():
        lock(note="other")
        assert refused(partial(lock, note="n"))
        assert refused(partial(lock, pk=parcels[0].pk)) is (sessions_at == REPEATABLE_READ)
        assert refused(insert) is (sessions_at == REPEATABLE_READ)


# Deadlocks


def change_both_in_a_transaction(first, second, event, meet):
    with transaction.atomic():
        first.transition_to("new", event_id=event)
        meet()
        second.transition_to("new", event_id=event)


def change_both_in_guards(first, second, event, meet):
    with first.transition("new", event_id=event):
        meet()
        second.transition_to("new", event_id=event)


@each_level
@pytest.mark.parametrize("change_both", [change_both_in_a_transaction, change_both_in_guards])
def test_of_two_in_opposite_orders_one_is_told_of_the_conflict_and_leaves_nothing(
    parcels,
    other_session,  # noqa: F811
    change_both,
):
    meet = partial(Barrier(2).wait, STUCK)
    first, second = parcels[:2]
    changing = [
        other_session(change_both, first, second, "there", meet),
        other_session(change_both, *Parcel.objects.order_by("-pk")[1:], "back", meet),
    ]
    (told,) = filter(None, (each.exception() for each in changing))
    assert isinstance(told, OperationInProgress)
    lost = "there" if changing[0].exception() else "back"
    assert not StatusTransition.objects.filter(event_id=lost).exists()
    change_both(*parcels[:2], lost, lambda: None)
    assert Counter(StatusTransition.objects.values_list("event_id", flat=True)) == {"there": 2, "back": 2}


@each_level
@pytest.mark.parametrize("model", [Parcel, ParkingParcel])
def test_a_change_outside_of_transactions_that_loses_a_deadlock_is_made_after_all(model, other_session):  # noqa: F811
    parcel = model.objects.create(reference="a")
    with transaction.atomic():
        # InnoDB gives up who has written less.
        Order.objects.bulk_create(Order(reference="b") for _ in range(50))
        write_to_the_log_of(parcel)
        changing = other_session(model.objects.get().transition_to, "packed", event_id="1")
        wait_until_somebody_waits()
        # The other one has this lock, until it has lost.
        lock_rows(model.objects.all())
        transaction.set_rollback(True)
    assert changing.result() == Outcome.APPLIED
    assert StatusTransition.objects.count() == 1


def write_to_the_log_of(parcel):
    """As nobody does who has not locked the parcel."""
    entry = StatusTransition(
        **subject_columns(type(parcel), parcel.pk, "default"),
        event_id="1",
        event_digest=event_digest("1"),
        from_status="new",
        to_status="packed",
        at=DatabaseNow(),
    )
    assert insert_once(entry, "default")
