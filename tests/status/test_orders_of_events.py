"""Every order in which an object's events can come, with every repetition, from several brokers at once."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product

import pytest
from django.apps import apps

from idempotency.models import ParkedEvent, StatusTransition
from tests.processes.rivals import answers, at_each_level, chains
from tests.project.models import Order, Parcel, ParkingParcel

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True)]
PROCESSES = 4


def sequences(events, most):
    """Each distinct order of the events, each one to ``most`` times."""
    times = product(range(1, most + 1), repeat=len(events))
    several = ("".join(event * n for event, n in zip(events, counts, strict=True)) for counts in times)
    return sorted({"".join(order) for each in several for order in distinct_orders(each)})


def distinct_orders(letters):
    if not letters:
        return {""}
    return {
        letter + rest for letter in set(letters) for rest in distinct_orders(letters.replace(letter, "", 1))
    }


TWICE = sequences("psd", most=2)


def deliver(model, names, isolation="", processes=PROCESSES):
    plan = {"model": model, "processes": processes, "objects": names}
    told = answers("deliveries", plan, isolation)
    assert sorted(event for _, event, _ in told) == sorted("".join(names))
    return told


def statuses(model):
    return dict(apps.get_model("project", model).objects.values_list("reference", "status"))


def chains_by_name(model):
    names = {
        str(pk): name for pk, name in apps.get_model("project", model).objects.values_list("pk", "reference")
    }
    return {names[subject]: chain for subject, chain in chains().items()}


def effects():
    return Counter(Order.objects.values_list("reference", "owner"))


def assert_each_event_had_its_effect_once(names):
    every_step = ["new", "packed", "sent", "delivered"]
    assert statuses("ParkingParcel") == dict.fromkeys(names, "delivered")
    assert chains_by_name("ParkingParcel") == dict.fromkeys(names, every_step)
    assert effects() == dict.fromkeys(product(names, every_step[1:]), 1)
    assert not ParkedEvent.objects.exists()


def test_there_are_222_sequences_of_three_events_that_come_once_or_twice():
    assert len(TWICE) == len(set(TWICE)) == 222
    assert {"".join(order) for order in permutations("psd")} < set(TWICE)


@pytest.mark.psycopg3
@at_each_level
def test_parked_events_end_in_one_state_with_one_effect_each_in_whatever_order_they_come(isolation):
    told = deliver("ParkingParcel", TWICE, isolation)
    assert {answer for _, _, answer in told} == {"applied", "duplicate", "parked"}
    assert_each_event_had_its_effect_once(TWICE)


def test_one_consumer_after_the_other_does_the_same():
    deliver("ParkingParcel", TWICE, processes=1)
    assert_each_event_had_its_effect_once(TWICE)


@at_each_level
@pytest.mark.parametrize("model", ["RankedParcel", "NumberedParcel"])
def test_events_that_overtake_others_end_in_the_last_state_with_one_effect_each(model, isolation):
    told = deliver(model, TWICE, isolation)
    assert {answer for _, _, answer in told} == {"applied", "duplicate", "stale"}
    assert statuses(model) == dict.fromkeys(TWICE, "delivered")
    assert {chain[-1] for chain in chains_by_name(model).values()} == {"delivered"}
    assert set(effects().values()) == {1}
    assert effects().total() == StatusTransition.objects.count()
    assert {name for name, status in effects() if status == "delivered"} == set(TWICE)


@at_each_level
@pytest.mark.parametrize(
    ("model", "answers"),
    # A lost parcel may have been packed and sent before; that it is delivered contradicts it.
    [
        (Parcel, dict.fromkeys("psd", "rejected")),
        (ParkingParcel, {"p": "stale", "s": "stale", "d": "rejected"}),
    ],
    ids=["rejecting", "parking"],
)
def test_after_a_terminal_status_no_event_changes_anything_in_whatever_order_they_come(
    model, answers, isolation
):
    model.objects.bulk_create(model(reference=name, status="lost") for name in TWICE)
    told = deliver(model.__name__, TWICE, isolation)
    assert {(event, answer) for _, event, answer in told} == set(answers.items())
    assert statuses(model.__name__) == dict.fromkeys(TWICE, "lost")
    for rows in (StatusTransition, ParkedEvent, Order):
        assert not rows.objects.exists()


@at_each_level
def test_a_terminal_status_that_comes_among_them_is_the_last_one(isolation):
    names = sequences("psdl", most=1)
    deliver("ParkingParcel", names, isolation)
    ends = statuses("ParkingParcel")
    assert set(ends.values()) <= {"lost", "delivered"}
    assert {name: chain[-1] for name, chain in chains_by_name("ParkingParcel").items()} == ends
    assert set(effects().values()) == {1}
    assert effects().total() == StatusTransition.objects.count()


@pytest.mark.soak
@at_each_level
def test_events_that_come_up_to_three_times_each_have_one_effect_in_every_order(isolation):
    names = sequences("psd", most=3)
    assert len(names) == 5052
    deliver("ParkingParcel", names, isolation)
    assert_each_event_had_its_effect_once(names)
