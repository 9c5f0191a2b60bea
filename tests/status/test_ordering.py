"""What becomes of events that come too late, too early, or not at all."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from itertools import permutations

import pytest
from django.db.models import F

from idempotency.database import DatabaseNow
from idempotency.exceptions import TransitionRejected
from idempotency.models import ParkedEvent
from idempotency.status import ByRank, BySequence, Outcome, Park, Reject
from idempotency.status.events import Event
from idempotency.status.graph import TransitionGraph
from tests.project.models import (
    LIFE,
    NumberedParcel,
    NumberedParkingParcel,
    Order,
    Parcel,
    ParkingParcel,
    RankedParcel,
)

pytestmark = pytest.mark.django_db
EVENTS = ("packed", "sent", "delivered")


def deliver(model, *statuses):
    """The object, and what it was told of each event. Each event's id is its status."""
    parcel = model.objects.create(reference="a")
    return parcel, [parcel.transition_to(status, event_id=status) for status in statuses]


def caused():
    return list(Order.objects.order_by("pk").values_list("owner", flat=True))


# Parking


@pytest.mark.parametrize("order", list(permutations(EVENTS)), ids=" ".join)
def test_parked_events_are_applied_in_their_order_whatever_order_they_come_in(order):
    parcel, _ = deliver(ParkingParcel, *order)
    assert parcel.status == ParkingParcel.objects.get().status == "delivered"
    assert caused() == list(EVENTS)
    assert ParkedEvent.objects.count() == 0


def test_an_event_that_comes_too_early_is_kept_and_says_so():
    parcel, told = deliver(ParkingParcel, "delivered", "sent", "delivered")
    assert told == ["parked", "parked", "parked"]
    assert parcel.status == "new"
    assert ParkedEvent.objects.about(parcel).count() == 2


def test_an_event_that_was_parked_and_applied_is_a_duplicate():
    parcel, _ = deliver(ParkingParcel, "sent", "packed")
    assert parcel.status == "sent"
    assert parcel.transition_to("sent", event_id="sent") is Outcome.DUPLICATE


def test_an_event_that_the_status_has_left_behind_is_stale():
    parcel, _ = deliver(ParkingParcel, "packed", "sent")
    assert parcel.transition_to("packed", event_id="another") is Outcome.STALE
    assert parcel.transition_to("sent", event_id="another") is Outcome.STALE
    assert caused() == ["packed", "sent"]


def test_news_of_what_an_object_is_from_the_start_is_stale():
    parcel = ParkingParcel.objects.create(reference="a", status="sent")
    assert parcel.transition_to("sent", event_id="e1") is Outcome.STALE


@pytest.mark.parametrize("order", list(permutations(EVENTS)), ids=" ".join)
def test_a_terminal_status_absorbs_what_comes_after_it(order):
    parcel = ParkingParcel.objects.create(reference="a", status="packed")
    parcel.transition_to("lost", event_id="lost")
    for status in order:
        with suppress(TransitionRejected):
            assert parcel.transition_to(status, event_id=status) is Outcome.STALE
    assert parcel.status == ParkingParcel.objects.get().status == "lost"
    assert ParkedEvent.objects.count() == 0


def test_a_command_is_not_carried_out_later_by_surprise():
    parcel = ParkingParcel.objects.create(reference="a")
    with pytest.raises(TransitionRejected):
        parcel.transition_to("sent")
    assert ParkedEvent.objects.count() == 0


def test_an_event_that_waited_for_a_change_past_the_mechanism_is_applied_when_it_comes_again():
    parcel, _ = deliver(ParkingParcel, "sent")
    ParkingParcel.objects.update(status="packed")
    assert parcel.transition_to("sent", event_id="sent") is Outcome.APPLIED
    assert ParkedEvent.objects.count() == 0


def test_a_parked_event_that_would_be_stale_by_now_does_not_wait_any_longer():
    parcel = ParkingParcel.objects.create(reference="a")
    for event in ("e1", "e2"):
        assert parcel.transition_to("sent", event_id=event) is Outcome.PARKED
    parcel.transition_to("packed", event_id="packed")
    assert (parcel.status, ParkedEvent.objects.count()) == ("sent", 0)
    assert caused() == ["packed", "sent"]


def test_a_parked_event_that_cannot_come_any_more_stays_to_be_reported():
    parcel, _ = deliver(ParkingParcel, "delivered")
    parcel.transition_to("lost")
    assert ParkedEvent.objects.get().event_id == "delivered"


def test_a_status_of_an_earlier_release_waits_and_is_in_nobodys_way():
    parcel, _ = deliver(ParkingParcel, "sent")
    ParkedEvent.objects.update(to_status="no longer there")
    assert parcel.transition_to("packed", event_id="packed") is Outcome.APPLIED
    assert ParkedEvent.objects.count() == 1


def test_parked_events_are_overdue_by_the_databases_clock():
    deliver(ParkingParcel, "sent")
    assert ParkedEvent.objects.overdue().count() == 0
    assert ParkedEvent.objects.filter(report_at=F("parked_at")).count() == 0
    ParkedEvent.objects.update(report_at=DatabaseNow() - timedelta(seconds=1))
    assert ParkedEvent.objects.overdue().count() == 1


NUMBERED = (("packed", 1), ("sent", 2), ("delivered", 3), ("sent", 4), ("delivered", 5))


@pytest.mark.parametrize("order", list(permutations(NUMBERED)), ids=str)
def test_numbered_events_wait_for_the_one_before_whatever_short_cuts_there_are(order):
    parcel = NumberedParkingParcel.objects.create(reference="a")
    for status, number in order:
        parcel.transition_to(status, event_id=number, sequence=number)
    kept = NumberedParkingParcel.objects.get()
    assert (kept.status, kept.version) == (parcel.status, parcel.version) == ("delivered", 5)
    assert caused() == [status for status, _ in NUMBERED]
    assert ParkedEvent.objects.count() == 0


def test_a_numbered_command_that_is_ahead_is_rejected():
    parcel = NumberedParkingParcel.objects.create(reference="a")
    with pytest.raises(TransitionRejected):
        parcel.transition_to("packed", sequence=2)
    assert parcel.transition_to("packed", sequence=1) is Outcome.APPLIED


# Ranks


@pytest.mark.parametrize("order", list(permutations(EVENTS)), ids=" ".join)
def test_by_rank_the_highest_stays_and_what_ranks_lower_is_stale(order):
    parcel, told = deliver(RankedParcel, *order)
    assert parcel.status == RankedParcel.objects.get().status == "delivered"
    highest = order.index("delivered")
    assert told[highest:] == ["applied", *["stale"] * (len(order) - highest - 1)]
    assert caused().count("delivered") == 1


def test_by_rank_a_message_without_an_id_may_be_stale_too():
    parcel, _ = deliver(RankedParcel, "sent")
    assert parcel.transition_to("packed") is Outcome.STALE
    assert parcel.transition_to("sent") is Outcome.DUPLICATE


def test_by_rank_equals_do_not_overtake_each_other():
    graph = TransitionGraph({"a": ["b", "c"]})
    assert ByRank("a", ("b", "c")).judge(graph, "b", Event("c")) is None
    assert ByRank("a", ("b", "c")).judge(graph, "b", Event("b", "another")) is Outcome.STALE


# Sequence numbers


@pytest.mark.parametrize("order", list(permutations(enumerate(EVENTS, 1))), ids=str)
def test_by_sequence_the_latest_stays_and_what_is_older_is_stale(order):
    parcel = NumberedParcel.objects.create(reference="a")
    for number, status in order:
        parcel.transition_to(status, event_id=status, sequence=number)
    kept = NumberedParcel.objects.get()
    assert (kept.status, kept.version) == (parcel.status, parcel.version) == ("delivered", 3)
    assert caused().count("delivered") == 1


def test_by_sequence_an_allowed_change_that_is_older_is_stale():
    parcel = NumberedParcel.objects.create(reference="a", version=7)
    assert parcel.transition_to("packed", sequence=7) is Outcome.STALE
    assert parcel.transition_to("packed", sequence=8) is Outcome.APPLIED
    assert parcel.transition_to("sent") is Outcome.APPLIED
    assert NumberedParcel.objects.get().version == 8


def test_without_an_ordering_what_is_not_allowed_is_rejected_until_it_is():
    parcel = Parcel.objects.create(reference="a")
    with pytest.raises(TransitionRejected):
        parcel.transition_to("sent", event_id="e2")
    assert parcel.transition_to("packed", event_id="e1") is Outcome.APPLIED
    assert parcel.transition_to("sent", event_id="e2") is Outcome.APPLIED


# Declarations


@pytest.mark.parametrize(
    ("ordering", "problem"),
    [
        (ByRank("new", "packed", "sent", "delivered"), "lost has no rank"),
        (ByRank("new", "sent", "packed", "delivered", "lost"), "packed may become sent, which ranks lower"),
        (Park(timedelta(0)), "no timedelta above 0"),
        (Park(3600), "no timedelta above 0"),
    ],
)
def test_a_declaration_that_cannot_work_says_why(ordering, problem):
    assert any(problem in found for found in ordering.problems(TransitionGraph(LIFE)))


@pytest.mark.parametrize("ordering", [Reject(), Park(), BySequence("version")])
def test_a_sound_declaration_has_no_problems(ordering):
    assert ordering.problems(TransitionGraph(LIFE)) == []
