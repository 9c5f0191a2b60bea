"""What is announced of a change of status, and how it is done from async code."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from idempotency import signals
from idempotency.exceptions import TransitionRejected
from idempotency.status import Outcome
from tests.project.models import Parcel, ParkingParcel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def heard():
    """(signal, key's text, extra) in the order in which they were sent."""
    seen = []

    def listen(name):
        def receive(mechanism, key, **extra):
            assert mechanism == "status"
            seen.append((name, key.key, extra))

        getattr(signals, name).connect(receive)
        return receive

    names = ("claimed", "completed", "replayed", "refused", "abandoned", "parked")
    receivers = {name: listen(name) for name in names}
    yield seen
    for name, receive in receivers.items():
        getattr(signals, name).disconnect(receive)


def names(heard):
    return [name for name, *_ in heard]


@pytest.mark.parametrize("model", [Parcel, ParkingParcel])
def test_a_change_is_announced_with_what_it_was(heard, model):
    model.objects.create(reference="a").transition_to("packed", event_id="e1", by="nightly")
    name, key, extra = heard[-1]
    assert (name, key) == ("completed", "e1")
    assert extra["transition"] == ("new", "packed", "e1", None, "nightly")
    assert names(heard).count("completed") == 1


@pytest.mark.parametrize("model", [Parcel, ParkingParcel])
def test_a_change_is_announced_when_it_is_committed(heard, model):
    with transaction.atomic():
        model.objects.create(reference="a").transition_to("packed", event_id="e1")
        assert "completed" not in names(heard)
    assert names(heard)[-1] == "completed"


def test_parked_events_are_announced_twice_when_they_come_and_when_they_are_applied(heard):
    parcel = ParkingParcel.objects.create(reference="a")
    parcel.transition_to("sent", event_id="e2")
    assert names(heard) == ["parked"]
    parcel.transition_to("packed", event_id="e1")
    told = [extra["transition"].to_status for name, _, extra in heard if name == "completed"]
    assert told == ["packed", "sent"]


def test_duplicates_and_refusals_are_announced(heard):
    parcel = Parcel.objects.create(reference="a")
    parcel.transition_to("packed", event_id="e1")
    parcel.transition_to("packed", event_id="e1")
    with pytest.raises(TransitionRejected):
        parcel.transition_to("delivered", event_id="e9")
    assert names(heard) == ["completed", "replayed", "refused"]
    assert heard[-1][2]["error"].code == "transition-rejected"


def test_what_is_rolled_back_is_announced_as_abandoned(heard):
    parcel = Parcel.objects.create(reference="a")
    with pytest.raises(LookupError), parcel.transition("packed", event_id="e1"):
        raise LookupError
    assert names(heard) == ["claimed", "abandoned"]


@pytest.mark.parametrize("model", [Parcel, ParkingParcel])
def test_async_code_changes_statuses_too(model):
    parcel = model.objects.create(reference="a")

    async def deliver_twice():
        return [await parcel.atransition_to("packed", event_id="e1") for _ in range(2)]

    assert async_to_sync(deliver_twice)() == [Outcome.APPLIED, Outcome.DUPLICATE]
