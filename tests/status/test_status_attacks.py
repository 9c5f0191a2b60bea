"""What strangers have found who tried to break statuses and amounts: each stays mended."""

from __future__ import annotations

from enum import Enum

import pytest
from django.contrib.auth.models import User
from django.db import connection, models, transaction
from django.urls import path
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.exceptions import FingerprintMismatch, OperationInProgress
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTransitionMixin
from idempotency.models import ParkedEvent, StatusTransition
from idempotency.records import RecordGuard
from idempotency.status import ByRank, Outcome, Park
from idempotency.status.graph import TransitionGraph
from tests.conftest import Caller, problem, urlconf
from tests.project.models import Door, NumberedParkingParcel, Order, Parcel, ParkingParcel

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3]


def serve(settings, view):
    settings.ROOT_URLCONF = urlconf(path("view/", view.as_view()))


# Answers


class KeyFirst(IdempotencyKeyMixin, IdempotencyTransitionMixin, APIView):
    def post(self, request):
        with ParkingParcel.objects.get().transition(request.data["status"], event_id="e1"):
            pass
        return Response({})


class TransitionFirst(IdempotencyTransitionMixin, IdempotencyKeyMixin, APIView):
    post = KeyFirst.post


@pytest.mark.parametrize("view", [KeyFirst, TransitionFirst])
def test_an_event_that_was_accepted_beside_a_key_is_kept(settings, alice, view):
    serve(settings, view)
    ParkingParcel.objects.create(reference="a")
    assert [alice.once("/view/", {"status": "sent"}).status_code for _ in range(2)] == [202, 202]
    assert ParkedEvent.objects.count() == 1


def test_what_one_object_is_told_is_not_answered_for_another(settings, alice):
    class Nested(IdempotencyTransitionMixin, APIView):
        def post(self, request):
            first, second = Parcel.objects.order_by("reference")
            with first.transition("packed"), second.transition("packed", event_id="e1"):
                pass
            return Response({})

    serve(settings, Nested)
    Parcel.objects.create(reference="a")
    Parcel.objects.create(reference="b").transition_to("packed", event_id="e1")
    assert alice.once("/view/", key=None).status_code == 500
    assert Parcel.objects.get(reference="a").status == "new"


class Open(IdempotencyTransitionMixin, APIView):
    permission_classes = [AllowAny]

    def post(self, request):
        return self.transition(Parcel.objects.get(), "packed")


def test_nobody_names_anothers_key(settings, alice):
    serve(settings, Open)
    Parcel.objects.create(reference="a")
    theirs = f'"auth.user:{User.objects.get(username="alice").pk} k1"'
    assert problem(Caller(None).once("/view/", key=theirs), 403, "missing-principal")
    assert "Idempotency-Replayed" not in alice.once("/view/", key="k1")


@pytest.mark.parametrize("names", [("acme x", "acme"), ("jürgen", "jörg")])
def test_keys_are_apart_by_whose_they_are_whatever_the_names(settings, alice, names):
    class Named(Open):
        def get_transition_by(self, request):
            return request.META["HTTP_X_BY"]

    serve(settings, Named)
    Parcel.objects.create(reference="a")
    for name, key in zip(names, ('"y"', '"x y"'), strict=True):
        Parcel.objects.update(status="new")
        response = alice.once("/view/", key=key, headers={"X-By": name})
        assert (response.status_code, "Idempotency-Replayed" in response) == (200, False)


def test_a_user_that_is_no_model_instance_may_change_a_status(settings, alice):
    class TokenUser:
        is_authenticated, pk = True, 7

    class Authentication:
        def authenticate(self, request):
            return TokenUser(), None

        def authenticate_header(self, request):
            return "Bearer"

    class Stateless(Open):
        authentication_classes = [Authentication]

    serve(settings, Stateless)
    Parcel.objects.create(reference="a")
    assert alice.once("/view/").status_code == 200
    assert StatusTransition.objects.get().by.endswith("TokenUser:7")


def test_what_a_hook_does_not_find_is_no_404(settings, alice, monkeypatch):
    class View(IdempotencyTransitionMixin, APIView):
        def post(self, request):
            return self.transition(ParkingParcel.objects.get(), "packed")

    serve(settings, View)
    ParkingParcel.objects.create(reference="a")
    monkeypatch.setattr(ParkingParcel, "on_transition", lambda self, _: User.objects.get(username="nobody"))
    assert alice.once("/view/").status_code == 500


def test_a_command_is_answered_with_its_own_change_and_not_with_what_it_let_in(settings, alice):
    class View(IdempotencyTransitionMixin, APIView):
        def post(self, request):
            return self.transition(ParkingParcel.objects.get(), "packed")

    serve(settings, View)
    ParkingParcel.objects.create(reference="a").transition_to("sent", event_id="e2")
    answer = alice.once("/view/", key=None).json()
    assert (answer["status"], answer["from"]) == ("packed", "new")


def test_the_mixin_behind_the_view_is_refused():
    with pytest.raises(TypeError, match="Put IdempotencyTransitionMixin first"):
        type("View", (APIView, IdempotencyTransitionMixin), {})


# Events


def test_numbers_that_were_overtaken_are_not_applied_from_where_they_are_parked():
    parcel = NumberedParkingParcel.objects.create(reference="a")
    for event, status, number in (
        ("c", "sent", 2),
        ("b", "sent", 2),
        ("d", "delivered", 3),
        ("a", "packed", 1),
    ):
        parcel.transition_to(status, event_id=event, sequence=number)
    parcel.refresh_from_db()
    assert (parcel.status, parcel.version) == ("delivered", 3)
    assert ParkedEvent.objects.count() == 0
    assert Order.objects.count() == 3


def test_a_parked_event_does_not_come_back_as_another():
    parcel = ParkingParcel.objects.create(reference="a")
    parcel.transition_to("sent", event_id="e1")
    with pytest.raises(FingerprintMismatch):
        parcel.transition_to("packed", event_id="e1")
    assert ParkingParcel.objects.get().status == "new"
    assert ParkedEvent.objects.count() == 1


def test_members_of_any_enum_are_the_values_that_a_column_has(monkeypatch):
    class Status(str, Enum):  # noqa: UP042  (whose str() is not the value)
        NEW, PACKED, SENT = "new", "packed", "sent"

    graph = TransitionGraph({Status.NEW: [Status.PACKED], Status.PACKED: [Status.SENT]})
    monkeypatch.setattr(ParkingParcel, "status_graph", classmethod(lambda cls: graph))
    parcel = ParkingParcel.objects.create(reference="a")
    assert parcel.transition_to(Status.SENT, event_id="e2") is Outcome.PARKED
    assert parcel.transition_to(Status.PACKED, event_id="e1") is Outcome.APPLIED
    assert parcel.transition_to("sent", event_id="e2") is Outcome.DUPLICATE
    assert [entry.to_status for entry in parcel.status_log()] == ["packed", "sent"]
    assert ByRank(Status.NEW, Status.PACKED).ranks == {"new": 0, "packed": 1}


def test_an_object_is_one_however_its_primary_key_was_spelled_when_it_was_made():
    door = Door.objects.create()
    spelled = Door(number=door.number.hex.upper())
    spelled._state.adding = False
    assert spelled.transition_to(Door.State.CLOSED, event_id="e1") is Outcome.APPLIED
    as_made = Door(number=door.number.hex.upper())
    assert as_made.status_log().count() == spelled.status_log().count() == door.status_log().count() == 1
    door.transition_to(Door.State.OPEN)
    assert door.transition_to(Door.State.CLOSED, event_id="e1") is Outcome.DUPLICATE


def test_an_ordering_by_park_and_numbers_does_not_stop_at_a_status_that_repeats(monkeypatch):
    graph = TransitionGraph({"new": ["packed"], "packed": ["packed", "sent"]})
    monkeypatch.setattr(NumberedParkingParcel, "status_graph", classmethod(lambda cls: graph))
    parcel = NumberedParkingParcel.objects.create(reference="a")
    for status, number in (("sent", 3), ("packed", 2), ("packed", 1)):
        parcel.transition_to(status, event_id=number, sequence=number)
    assert (parcel.status, parcel.version) == ("sent", 3)
    assert isinstance(NumberedParkingParcel.status_ordering, Park)


# Connections


@pytest.mark.parametrize("kind", ["transition", "record"])
def test_a_guard_that_is_entered_twice_is_left_once_and_leaves_nothing_open(kind):
    parcel = Parcel.objects.create(reference="a")
    record = RecordGuard(ScopedKey(("user", "1"), "order", "k"), Fingerprint(b""), using="default")
    guard = parcel.transition("packed") if kind == "transition" else record
    with pytest.raises(OperationInProgress), guard, guard:
        pass
    assert not connection.in_atomic_block
    with guard:
        pass


@pytest.mark.skipif(connection.vendor == "sqlite", reason="there Django's savepoint would be the transaction")
@pytest.mark.parametrize("model", [Parcel, ParkingParcel])
def test_where_the_project_commits_by_hand_a_change_is_applied_and_stands_with_its_commit(model):
    parcel = model.objects.create(reference="a")
    transaction.set_autocommit(False)
    try:
        assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED
        transaction.rollback()
        assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert model.objects.get().status == "packed"
    assert StatusTransition.objects.count() == 1


def test_what_runs_after_the_commit_may_change_the_object_again():
    door = Door.objects.create()
    with door.transition(Door.State.CLOSED):
        transaction.on_commit(lambda: door.transition_to(Door.State.OPEN))
    assert Door.objects.get().state == Door.State.OPEN


class Thing(models.Model):
    class Meta:
        app_label = "project"
        managed = False


def test_rows_of_objects_with_the_same_number_are_apart():
    parcel = ParkingParcel.objects.create(pk=1, reference="a")
    Parcel.objects.create(pk=1, reference="a").transition_to("packed")
    assert parcel.status_log().count() == 0
    assert StatusTransition.objects.about(Thing(pk=1)).count() == 0
