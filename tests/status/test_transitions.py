"""What transition_to() says and does, in one statement and under a lock."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from idempotency.exceptions import (
    FingerprintMismatch,
    InvalidKey,
    TransitionRejected,
    UnknownStatus,
    WrittenElsewhere,
)
from idempotency.models import ParkedEvent, StatusTransition
from idempotency.status import Outcome
from tests.project.models import Door, ExpressParcel, Locker, NumberedParcel, Order, Parcel, ParkingParcel

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3]

# One is changed by a statement, the other under a lock; what they answer is the same.
both = pytest.mark.parametrize("model", [Parcel, ParkingParcel])


def made(model, **values):
    return model.objects.create(**{"reference": "a", **values})


def log_of(instance):
    return [(entry.from_status, entry.to_status) for entry in instance.status_log()]


@both
def test_an_allowed_change_is_applied_and_logged(model):
    parcel = made(model)
    assert parcel.transition_to("packed") is Outcome.APPLIED
    assert parcel.status == "packed"
    assert model.objects.get().status == "packed"
    assert log_of(parcel) == [("new", "packed")]


@both
def test_the_log_says_who_when_and_for_which_event(model):
    alice = User.objects.create(username="alice")
    parcel = made(model)
    parcel.transition_to("packed", event_id="e1", by=alice)
    entry = parcel.status_log().get()
    assert (entry.by, entry.event_id) == (f"auth.user:{alice.pk}", "e1")
    assert entry.at is not None
    assert entry.subject == parcel


@both
def test_the_same_event_is_applied_once(model):
    parcel = made(model)
    assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED
    assert model.objects.get().transition_to("packed", event_id="e1") is Outcome.DUPLICATE
    assert log_of(parcel) == [("new", "packed")]


def test_the_same_event_is_not_applied_again_after_the_status_has_come_back():
    door = Door.objects.create()
    assert door.transition_to(Door.State.CLOSED, event_id="e1") == "applied"
    assert door.transition_to(Door.State.OPEN) == "applied"
    assert door.transition_to(Door.State.CLOSED, event_id="e1") == "duplicate"
    assert Door.objects.get().state == Door.State.OPEN


@both
def test_without_an_event_a_duplicate_is_what_is_there_already(model):
    parcel = made(model)
    parcel.transition_to("packed")
    assert parcel.transition_to("packed") is Outcome.DUPLICATE
    assert len(log_of(parcel)) == 1


def test_without_an_event_a_status_that_may_become_itself_is_a_duplicate_too():
    parcel = made(Parcel)
    assert parcel.transition_to("new") is Outcome.DUPLICATE
    assert parcel.transition_to("new", event_id="e1") is Outcome.APPLIED
    assert parcel.transition_to("new", event_id="e1") is Outcome.DUPLICATE


@both
def test_what_is_not_allowed_is_rejected_by_both_names(model):
    parcel = made(model, status="lost")
    with pytest.raises(TransitionRejected, match="from lost to sent") as rejected:
        parcel.transition_to("sent")
    assert (rejected.value.from_status, rejected.value.to_status) == ("lost", "sent")
    assert log_of(parcel) == []


@both
def test_an_event_stands_for_one_change(model):
    parcel = made(model)
    parcel.transition_to("packed", event_id="e1")
    with pytest.raises(FingerprintMismatch, match="e1 stood for a change to packed"):
        parcel.transition_to("sent", event_id="e1")
    assert model.objects.get().status == "packed"


def test_a_parked_event_stands_for_one_change():
    parcel = made(ParkingParcel)
    parcel.transition_to("sent", event_id="e1")
    with pytest.raises(FingerprintMismatch):
        parcel.transition_to("delivered", event_id="e1")


@both
def test_events_are_known_byte_for_byte_and_by_object(model):
    parcel, other = made(model), made(model, reference="b")
    parcel.transition_to("packed", event_id="Key-A")
    assert other.transition_to("packed", event_id="Key-A") is Outcome.APPLIED
    assert parcel.transition_to("sent", event_id="key-a") is Outcome.APPLIED


@both
@pytest.mark.parametrize("event_id", ["", "ü", "x" * 256, True, 1.5, b"e1", "a\n"])
def test_a_malformed_event_id_is_refused_with_what_to_send(model, event_id):
    parcel = made(model)
    with pytest.raises(InvalidKey, match="1 to 255 printable ASCII"):
        parcel.transition_to("packed", event_id=event_id)
    assert log_of(parcel) == []


def test_ids_that_are_numbers_or_uuids_are_known_by_their_text():
    door, number = Door.objects.create(), uuid4()
    assert door.transition_to(Door.State.CLOSED, event_id=7) == "applied"
    assert door.transition_to(Door.State.CLOSED, event_id="7") == "duplicate"
    assert door.transition_to(Door.State.OPEN, event_id=number) == "applied"
    assert door.transition_to(Door.State.OPEN, event_id=str(number)) == "duplicate"


@both
@pytest.mark.parametrize("status", ["no such", None, 7, ["packed"]])
def test_a_status_that_is_none_names_those_there_are(model, status):
    with pytest.raises(UnknownStatus, match="its transitions name new, packed, sent"):
        made(model).transition_to(status)


@pytest.mark.parametrize("sequence", ["1", 1.0, True])
def test_a_sequence_number_is_an_int(sequence):
    with pytest.raises(ValueError, match="A sequence number is an int"):
        made(NumberedParcel).transition_to("packed", sequence=sequence)


@both
def test_an_object_that_was_deleted_does_not_exist(model):
    parcel = made(model)
    model.objects.all().delete()
    with pytest.raises(model.DoesNotExist):
        parcel.transition_to("packed")


def test_an_object_without_a_row_has_nothing_to_lock():
    with pytest.raises(ValueError, match="was not saved yet"):
        Parcel(reference="a").transition_to("packed")


@both
def test_other_fields_that_were_assigned_and_not_saved_are_left_alone(model):
    parcel = made(model)
    parcel.note = "fragile"
    parcel.transition_to("packed")
    assert parcel.note == "fragile"
    assert model.objects.get().note == ""


@both
def test_a_copy_that_was_read_before_learns_the_status(model):
    parcel = made(model)
    model.objects.get().transition_to("packed")
    assert parcel.status == "new"
    assert parcel.transition_to("packed") is Outcome.DUPLICATE
    assert parcel.status == "packed"


@both
def test_within_a_transaction_a_change_stands_or_falls_with_it(model):
    parcel = made(model)
    with pytest.raises(LookupError), transaction.atomic():
        assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED
        raise LookupError
    assert model.objects.get().status == "new"
    assert StatusTransition.objects.count() == 0
    assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED


def test_the_status_of_a_child_model_is_in_its_parents_table():
    express = ExpressParcel.objects.create(reference="a", courier="c")
    parent = ParkingParcel.objects.get()
    assert express.transition_to("packed", event_id="e1") is Outcome.APPLIED
    assert parent.transition_to("packed", event_id="e1") is Outcome.DUPLICATE
    assert log_of(parent) == log_of(express) == [("new", "packed")]


def test_a_status_may_be_a_number_in_a_column_of_another_name():
    door = Door.objects.create()
    assert door.transition_to("2") is Outcome.APPLIED
    assert Door.objects.get().state == Door.State.CLOSED
    assert log_of(door) == [("1", "2")]


def test_an_object_found_by_another_spelling_of_its_key_has_the_same_events():
    Locker.objects.create(name="A")
    assert Locker(name="A").transition_to("taken", event_id="e1") is Outcome.APPLIED
    if connection.vendor == "mysql":
        assert Locker(name="a").transition_to("taken", event_id="e1") is Outcome.DUPLICATE
        assert Locker(name="a").transition_to("free", event_id="e2") is Outcome.APPLIED
        assert Locker(name="A").transition_to("free", event_id="e2") is Outcome.DUPLICATE


def test_where_nothing_is_read_a_change_is_one_statement_on_postgresql_and_two_elsewhere():
    parcel = made(Parcel)
    parcel.transition_to("packed", event_id="warm")
    with CaptureQueriesContext(connection) as queries:
        parcel.transition_to("sent", event_id="e1")
    own = [
        query["sql"] for query in queries if query["sql"].startswith(("WITH", "INSERT", "UPDATE", "SELECT"))
    ]
    assert len(own) == (1 if connection.vendor == "postgresql" else 2)


# What a change causes


def test_what_a_change_causes_is_called_once_within_its_transaction():
    parcel = made(ParkingParcel)
    parcel.transition_to("packed", event_id="e1")
    parcel.transition_to("packed", event_id="e1")
    assert list(Order.objects.values_list("reference", "owner", "note")) == [("a", "packed", "new")]


def test_an_error_of_what_a_change_causes_rolls_the_change_back(monkeypatch):
    parcel = made(ParkingParcel)

    def fail(self, transition):
        raise LookupError

    with monkeypatch.context() as patch:
        patch.setattr(ParkingParcel, "on_transition", fail)
        with pytest.raises(LookupError):
            parcel.transition_to("packed", event_id="e1")
    assert parcel.status == ParkingParcel.objects.get().status == "new"
    assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED


def test_a_hook_that_swallows_what_broke_the_transaction_has_not_succeeded(monkeypatch):
    def swallow(self, transition):
        try:
            with transaction.atomic(savepoint=False):
                Order.objects.create(note="forbidden")
        except DatabaseError:
            pass

    monkeypatch.setattr(ParkingParcel, "on_transition", swallow)
    with pytest.raises(transaction.TransactionManagementError, match="nothing"):
        made(ParkingParcel).transition_to("packed", event_id="e1")
    assert ParkingParcel.objects.get().status == "new"
    assert StatusTransition.objects.count() == 0


def test_what_a_hook_hears_of_another_object_is_no_answer_about_this_one(monkeypatch):
    other = made(Parcel, reference="other", status="packed")

    def enter_another(self, transition):
        with other.transition("packed"):
            pass

    monkeypatch.setattr(ParkingParcel, "on_transition", enter_another)
    with pytest.raises(RuntimeError, match="Catch NotApplied there"):
        made(ParkingParcel).transition_to("packed", event_id="e1")
    assert ParkingParcel.objects.get().status == "new"


def test_a_hook_may_change_the_status_further(monkeypatch):
    def go_on(self, transition):
        if transition.to_status == "packed":
            assert self.transition_to("sent") is Outcome.APPLIED

    monkeypatch.setattr(ParkingParcel, "on_transition", go_on)
    parcel = made(ParkingParcel)
    assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED
    assert parcel.status == ParkingParcel.objects.get().status == "sent"
    assert log_of(parcel) == [("new", "packed"), ("packed", "sent")]


# The guard


def test_inside_its_guard_the_object_is_as_it_is_under_the_lock():
    parcel = made(ParkingParcel)
    ParkingParcel.objects.update(note="fragile")
    with parcel.transition("packed", event_id="e1") as change:
        assert (parcel.note, parcel.status) == ("fragile", "new")
        assert (change.from_status, change.to_status) == ("new", "packed")
        parcel.note = "seen"
        parcel.save()
    assert ParkingParcel.objects.get().note == "seen"
    assert ParkingParcel.objects.get().status == parcel.status == "packed"


def test_a_guard_that_is_abandoned_changes_nothing_and_the_event_may_come_again():
    parcel = made(ParkingParcel)
    with parcel.transition("packed", event_id="e1") as change:
        Order.objects.create(reference="rolled back")
        change.abandon()
    assert parcel.status == ParkingParcel.objects.get().status == "new"
    assert Order.objects.count() == 0
    assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED


def test_what_another_guard_inside_hears_is_no_answer_about_this_one():
    parcel, other = made(ParkingParcel), made(Parcel, reference="other", status="packed")
    inner = pytest.raises(RuntimeError, match="Catch NotApplied there")
    with inner, parcel.transition("packed"), other.transition("packed"):
        pass
    assert ParkingParcel.objects.get().status == "new"


def test_changing_the_status_inside_its_own_transition_is_refused():
    parcel = made(ParkingParcel)
    with pytest.raises(WrittenElsewhere), parcel.transition("packed"):
        ParkingParcel.objects.update(status="lost")
    assert ParkingParcel.objects.get().status == "new"


# Objects that events name


def test_an_object_that_an_event_names_is_found_by_its_unique_field():
    parcel = made(Parcel, reference="123")
    assert Parcel.for_event("123") == Parcel.for_event(123) == parcel
    with pytest.raises(Parcel.DoesNotExist, match="no Parcel with reference 'b'"):
        Parcel.for_event("b")


def test_one_that_is_not_there_is_inserted_where_the_event_says_what_it_is():
    parcel = Parcel.for_event("a", defaults={"note": "fragile"})
    assert (parcel.reference, parcel.note, parcel.status) == ("a", "fragile", "new")
    assert Parcel.for_event("a", defaults={"note": "other"}).note == "fragile"
    assert Parcel.objects.count() == 1


def test_what_the_database_refuses_to_insert_is_said():
    with pytest.raises(DatabaseError):
        Parcel.for_event("a", defaults={"note": None})
    assert Parcel.objects.count() == 0


def test_nothing_is_parked_twice():
    parcel = made(ParkingParcel)
    assert [parcel.transition_to("sent", event_id="e1") for _ in range(2)] == ["parked", "parked"]
    assert ParkedEvent.objects.count() == 1
