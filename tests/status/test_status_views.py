"""Actions and webhooks that change statuses, over HTTP."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from idempotency.models import IdempotencyRecord, StatusTransition
from tests.conftest import problem
from tests.project.models import NumberedParcel, Order, Parcel, ParkingParcel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def parcel():
    return ParkingParcel.objects.create(reference="a")


def act(caller, parcel, action, key="key-1", path="parcels"):
    return caller.once(f"/{path}/{parcel.pk}/{action}/", key=key)


def tell(caller, **event):
    return caller.once("/parcel-events/", {"parcel": "a", **event}, key=None)


def test_a_change_is_answered_with_what_the_log_has_of_it(alice, parcel):
    response = act(alice, parcel, "pack")
    assert response.status_code == 200
    entry = StatusTransition.objects.get()
    assert response.json() == {
        "status": "packed",
        "from": "new",
        "event": entry.event_id,
        "at": response.json()["at"],
    }
    assert entry.by == f"auth.user:{User.objects.get(username='alice').pk}"
    assert "Idempotency-Replayed" not in response


def test_a_duplicate_is_answered_as_the_first_was(alice, parcel):
    first = act(alice, parcel, "pack")
    act(alice, parcel, "send", key="key-2")
    again = act(alice, parcel, "pack")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again["Idempotency-Replayed"] == "true"
    assert Order.objects.count() == 2


def test_without_a_key_the_status_alone_tells_duplicates(alice, parcel):
    first, again = (act(alice, parcel, "pack", key=None) for _ in range(2))
    assert first.content == again.content
    assert first.json()["event"] is None
    assert again["Idempotency-Replayed"] == "true"


def test_a_key_is_its_callers_own(alice, bob, parcel):
    act(alice, parcel, "pack")
    response = act(bob, parcel, "pack")
    assert response.status_code == 200
    assert "Idempotency-Replayed" not in response
    assert StatusTransition.objects.count() == 1


def test_a_change_that_is_not_allowed_is_a_problem(alice, parcel):
    ParkingParcel.objects.update(status="delivered")
    response = act(alice, parcel, "send", key=None)
    assert problem(response, 409, "transition-rejected")
    assert "from delivered to sent" in response.json()["detail"]


def test_what_is_stale_is_answered_with_what_is_known(alice, parcel):
    act(alice, parcel, "pack")
    act(alice, parcel, "send", key="key-2")
    response = act(alice, parcel, "pack", key="key-3")
    assert (response.status_code, response.json()["status"], response.json()["from"]) == (
        200,
        "sent",
        "packed",
    )


def test_what_comes_too_early_is_accepted(alice, parcel):
    response = act(alice, parcel, "send")
    assert (response.status_code, response.json()["status"]) == (202, "new")
    act(alice, parcel, "pack", key="key-2")
    assert act(alice, parcel, "send").json()["status"] == "sent"


def test_an_event_that_stood_for_another_change_is_a_mismatch(alice, parcel):
    act(alice, parcel, "pack")
    assert problem(act(alice, parcel, "send"), 422, "fingerprint-mismatch")


def test_a_long_key_is_an_event_too(alice, parcel):
    first, again = (act(alice, parcel, "pack", key="x" * 255) for _ in range(2))
    assert first.content == again.content


def test_a_malformed_key_is_refused(alice, parcel):
    assert problem(act(alice, parcel, "pack", key="a,b"), 400, "invalid-key")


def test_a_guard_inside_a_view_is_answered_the_same_way(alice, parcel):
    assert act(alice, parcel, "pack_and_order").json() == {"packed": True}
    again = act(alice, parcel, "pack_and_order")
    assert (again.status_code, again.json()["status"], again["Idempotency-Replayed"]) == (
        200,
        "packed",
        "true",
    )
    assert Order.objects.filter(reference="from new").count() == 1
    ParkingParcel.objects.update(status="lost")
    assert problem(act(alice, parcel, "pack_and_order", key=None), 409, "transition-rejected")


# Webhooks


def test_an_event_names_its_object_by_the_unique_field(alice, parcel):
    assert tell(alice, event="e1", status="packed").status_code == 200
    assert ParkingParcel.objects.get().status == "packed"
    assert StatusTransition.objects.get().event_id == "e1"


@pytest.mark.parametrize("name", ["b", None, "x" * 51, "a\0", ["a"], {"a": 1}])
def test_an_object_that_there_is_not_is_404(alice, parcel, name):
    assert tell(alice, event="e1", status="packed", parcel=name).status_code == 404


@pytest.mark.parametrize("status", ["no such", None, 5, {}])
def test_a_status_that_there_is_not_is_400_and_names_those_there_are(alice, parcel, status):
    response = tell(alice, event="e1", status=status)
    assert response.status_code == 400
    assert "new, packed, sent" in response.json()["status"][0]


@pytest.mark.parametrize("event", ["", "ü", 1.5, {}, [], True])
def test_an_event_id_that_is_none_is_refused(alice, parcel, event):
    assert problem(tell(alice, event=event, status="packed"), 400, "invalid-key")
    assert ParkingParcel.objects.get().status == "new"


def test_an_object_may_be_made_by_the_first_event_that_comes(alice):
    assert tell(alice, event="e2", status="sent", new=True).status_code == 202
    assert tell(alice, event="e1", status="packed", new=True).status_code == 200
    assert ParkingParcel.objects.get().status == "sent"


@pytest.mark.parametrize("name", [None, "x" * 51, ""])
def test_an_object_whose_name_cannot_be_is_not_made(alice, name):
    assert tell(alice, event="e2", status="sent", new=True, parcel=name).status_code == 404
    assert ParkingParcel.objects.count() == 0


def test_events_bring_their_numbers(alice):
    tell(alice, event="e2", status="sent", number=2, new=True)
    response = tell(alice, event="e1", status="packed", number=1)
    assert (response.status_code, response.json()["status"]) == (200, "sent")
    assert NumberedParcel.objects.get().version == 2


@pytest.mark.parametrize("number", ["two", 1.5, True, 2**63])
def test_a_number_that_is_none_is_refused(alice, number):
    NumberedParcel.objects.create(reference="a")
    response = tell(alice, event="e1", status="packed", number=number)
    assert response.status_code == 400
    assert "sequence" in response.json()


# With a record


def test_with_a_key_mixin_answers_of_the_views_own_are_replayed(alice, parcel):
    first = act(alice, parcel, "pack", path="keyed-parcels")
    Order.objects.create(reference="another")
    again = act(alice, parcel, "pack", path="keyed-parcels")
    assert first.content == again.content
    assert again["Idempotency-Replayed"] == "true"
    assert IdempotencyRecord.objects.count() == 1


def test_with_a_key_mixin_a_rejection_is_not_kept_for_it_may_be_allowed_later(alice):
    path = f"/keyed-view/{Parcel.objects.create(reference='b').pk}/"
    response = alice.once(path, key="k")
    assert problem(response, 409, "transition-rejected")
    assert IdempotencyRecord.objects.count() == Order.objects.count() == 0
    Parcel.objects.update(status="packed")
    assert alice.once(path, key="k").json() == {"sent": True}
    assert Order.objects.count() == 1


def test_under_atomic_requests_a_rejection_rolls_the_views_writes_back(alice, atomic_requests):
    parcel = Parcel.objects.create(reference="b")
    assert problem(alice.once(f"/keyed-view/{parcel.pk}/"), 409, "transition-rejected")
    assert Order.objects.count() == 0
