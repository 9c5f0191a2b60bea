"""Holders that stand still for longer than their lock lasts, and then write as if nothing had been."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from idempotency.locks import lock
from tests.locks.conftest import beside_postgresql, enter, shortest_ttl, wait_until
from tests.processes.gates import STUCK
from tests.project.models import Guarded, Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.race]


@pytest.fixture
def row():
    return Guarded.objects.create(value="nobody's")


@pytest.fixture
def options(row, contested):
    return {"name": row.lock_name(), "alias": contested, "ttl": shortest_ttl(contested)}


@pytest.fixture
def first(row, options, contested, holders):
    """Holds the lock, and has read the row."""
    first = holders.new(locks={contested: {"TTL": options["ttl"]}})
    enter(first, **options)
    assert first.tell("read", pk=row.pk) is None
    return first


@pytest.fixture
def second(row, options, contested, holders):
    """Waits for nothing yet, and would keep the lock."""
    return holders.new(locks={contested: {"TTL": options["ttl"]}})


def overtake(first, second, row, options, *what):
    """The second one does this in the lock, while the first one is halted."""
    first.halt()
    enter(second, wait=STUCK, **options)
    assert second.tell("read", pk=row.pk) is None
    told = [second.tell(order, **arguments) for order, arguments in what]
    first.go_on()
    return told


def unchanged(row, value):
    """Also what was written beside it is gone."""
    row.refresh_from_db()
    assert row.value == value
    return not Order.objects.exclude(reference=value).exists()


def test_its_write_is_refused_once_another_has_written(first, second, row, options):
    assert first.tell("take_fence") > 0
    assert overtake(first, second, row, options, ("save", {"value": "second's"}), ("leave", {})) == [None] * 2
    assert first.tell("save", value="first's") == "StaleFence", first.says
    assert unchanged(row, "second's")


def test_its_write_is_refused_once_another_has_taken_a_fence(first, second, row, options):
    mine = first.tell("take_fence")
    (theirs,) = overtake(first, second, row, options, ("take_fence", {}))
    assert theirs > mine
    assert first.tell("save", value="first's") == "StaleFence", first.says
    assert unchanged(row, "nobody's")
    assert second.tell("save", value="second's") is None
    assert unchanged(row, "second's")


def test_it_gets_no_fence_any_more_with_which_it_could_overtake_the_other(first, second, row, options):
    assert overtake(first, second, row, options, ("save", {"value": "second's"})) == [None]
    assert first.tell("save", value="first's") == "LockLost", first.says
    assert unchanged(row, "second's")


def test_it_cannot_delete_the_row_either(first, second, row, options):
    assert first.tell("take_fence") > 0
    assert overtake(first, second, row, options, ("save", {"value": "second's"})) == [None]
    assert first.tell("delete") == "StaleFence", first.says
    assert unchanged(row, "second's")


def test_it_is_told_of_it_and_frees_nothing_of_the_others(first, second, row, options, holders, contested):
    overtake(first, second, row, options)
    assert first.tell("check") == "LockLost", first.says
    assert first.tell("is_lost") is True
    assert first.tell("leave") == "LockLost", first.says
    third = holders.new(locks={contested: {"TTL": options["ttl"]}})
    assert third.tell("enter", **options) == "LockBusy", third.says
    assert second.tell("leave") is None, second.says


BLOCKED_BY_ME = """
SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))
"""


def keeps_another_waiting():
    with connection.cursor() as cursor:
        cursor.execute(BLOCKED_BY_ME)
        return cursor.fetchone()[0]


@beside_postgresql
@pytest.mark.parametrize("contested", ["default"], indirect=True)
def test_its_write_is_refused_that_began_before_the_others_and_had_to_wait(first, row, options):
    """When the statement began, no other fence was there."""
    assert first.tell("take_fence") > 0
    first.halt()
    with lock(options["name"], alias=options["alias"], wait=STUCK), transaction.atomic():
        mine = Guarded.objects.select_for_update().get(pk=row.pk)
        first.go_on()
        first.order("save", value="first's")
        wait_until(keeps_another_waiting)
        mine.value = "second's"
        mine.save()
    assert first.answer() == "StaleFence", first.says
    assert unchanged(row, "second's")
