"""For how long an id is remembered: WINDOW at least, WINDOW and one SLICE at most."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from idempotency.models import UniqueId
from tests.unique_ids.conftest import run, wait_until, wait_until_over

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
MILLISECOND = timedelta(milliseconds=1)
WINDOW = 400 * MILLISECOND
SLOW = timedelta(milliseconds=250)
"""What a loaded machine may take to notice."""


@pytest.mark.parametrize("slices", [1, 3, 4, 6])
def test_an_id_is_remembered_for_the_window_and_forgotten_within_a_slice(made, slices):
    ids = made(WINDOW=WINDOW, SLICE=WINDOW / slices)
    before = time.monotonic()
    assert ids.add("a")
    added = time.monotonic()
    wait_until(lambda: "a" not in ids)
    over = time.monotonic()
    assert over - before >= WINDOW.total_seconds()
    assert over - added <= (WINDOW + WINDOW / slices + SLOW).total_seconds()


def test_a_slice_that_does_not_divide_the_window_keeps_nothing_longer(made):
    ids = made(WINDOW=WINDOW, SLICE=WINDOW * 0.6)
    for id in "abc":
        added = time.monotonic()
        assert ids.add(id)
        wait_until(lambda id=id: id not in ids)
        kept = time.monotonic() - added
        assert WINDOW.total_seconds() <= kept + 0.01
        assert kept <= (WINDOW * 1.6).total_seconds() + 0.06


def test_what_was_forgotten_is_handled_again(made):
    ids = made(WINDOW=WINDOW)
    assert run(ids) == "ran"
    assert run(ids) == "handled"
    wait_until(lambda: "a" not in ids)
    assert run(ids) == "ran"
    assert ids.add_many(["a", "b"]) == [False, True]


def test_each_id_is_remembered_from_its_own_time_on(made):
    """However the slices of time lie, one that came late in its slice has its whole window."""
    ids = made(WINDOW=WINDOW)
    added = {}
    for number in range(12):
        added[str(number)] = timezone.now()
        assert ids.add(str(number))
        wait_until_over(added[str(number)] + 5 * MILLISECOND)
    for id, at in added.items():
        seen = id in ids
        assert seen or timezone.now() >= at + WINDOW


def test_being_asked_for_does_not_lengthen_it(made):
    ids = made(WINDOW=WINDOW)
    before = time.monotonic()
    ids.add("a")
    wait_until(lambda: ids.add("a"))
    assert time.monotonic() - before <= (WINDOW * 1.25 + SLOW).total_seconds()


@pytest.mark.parametrize(
    "change",
    [
        {"SLICE": timedelta(hours=24)},
        {"SLICE": timedelta(hours=4)},
        {"SLICE": timedelta(hours=5)},
        {"WINDOW": timedelta(hours=6)},
        {"WINDOW": timedelta(days=7)},
        {"CLAIM": timedelta(hours=1), "ON_UNKNOWN": "discard"},
    ],
    ids=str,
)
def test_what_was_handled_stays_so_when_options_change(made, change):
    names = [str(number) for number in range(50)]
    made().add_many(names)
    ids = made(**change)
    assert all(name in ids for name in names)
    assert ids.add_many(names) == [False] * 50
    assert not any(name in made(**change) for name in ("50", "51"))


def test_in_a_database_an_id_is_remembered_for_exactly_the_window(made, medium):
    if medium.startswith("redis"):
        pytest.skip("Redis forgets slice by slice")
    ids = made(WINDOW=timedelta(days=1), SLICE=timedelta(days=1))
    ids.add("a")
    rows = UniqueId.objects.using(medium)
    row = rows.get()
    assert abs(row.kept_until - timezone.now() - timedelta(days=1)) < timedelta(seconds=30)
    rows.update(kept_until=row.kept_until - timedelta(hours=23))
    assert "a" in ids
    rows.update(kept_until=row.kept_until - timedelta(hours=25))
    assert "a" not in ids
    assert ids.add("a")
    assert rows.count() == 1
