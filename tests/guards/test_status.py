"""The guard of a status change: the contract. Each key is the event of an object of its own."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.guards.contract import GuardContract, UnderRepeatableRead
from tests.project.models import Order, Parcel, ParkingParcel

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
one_writer = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")


class TestTransitionGuard(GuardContract):
    model = Parcel

    @pytest.fixture(autouse=True)
    def rows(self, transactional_db):
        for key in ("k", "a", "b", "A", "a "):
            self.model.objects.create(pk=number(key), reference=number(key))

    def guard(self, key):
        # Refused at once, not made to wait, where the database can do that.
        parcel = self.model(pk=number(key))
        return parcel.transition("packed", event_id=key, nowait=connection.vendor != "sqlite")

    @one_writer
    def test_another_key_gets_in_meanwhile(self):
        super().test_another_key_gets_in_meanwhile()

    @one_writer
    def test_a_second_caller_is_refused_while_the_first_is_inside(self):
        super().test_a_second_caller_is_refused_while_the_first_is_inside()


class TestParkingTransitionGuard(TestTransitionGuard):
    model = ParkingParcel

    @pytest.fixture(autouse=True)
    def effects_of_the_block_alone(self, monkeypatch):
        monkeypatch.setattr(ParkingParcel, "on_transition", lambda self, transition: None)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one isolation level")
class TestTransitionGuardUnderRepeatableRead(UnderRepeatableRead, TestTransitionGuard):
    pass


class TestTransitionGuardUnderSerializable(TestTransitionGuardUnderRepeatableRead):
    level = "serializable"


def test_a_caller_who_may_wait_is_told_what_the_first_has_done():
    parcel = ParkingParcel.objects.create(reference="a")
    with parcel.transition("packed", event_id="e1"):
        Order.objects.create(reference="inside")
    assert ParkingParcel.objects.get().transition_to("packed", event_id="e1") == "duplicate"
    assert Order.objects.count() == 2


def number(key):
    return int.from_bytes(key.encode(), "big")
