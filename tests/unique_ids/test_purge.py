"""Ids, and leases and fences of locks, that a purge may delete; and live ones, which it never does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.core.management import CommandError
from django.db import connections
from django.utils import timezone

from idempotency.models import LockFence, LockLease, UniqueId
from idempotency.purging import Purge
from idempotency.unique_ids import unique_ids
from tests.test_purge import neighbour, purge  # noqa: F401  (a fixture)
from tests.unique_ids.conftest import run

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


def age(by=2 * DAY):
    """As if all ids were handled so much earlier."""
    for row in UniqueId.objects.all():
        row.kept_until -= by
        row.save()


def keep(model, column, *ages):
    """Rows of so many ages; 0 is now."""
    extra = {"number": 1} if model is LockFence else {"owner": bytes(16)}
    now = timezone.now()
    for number, old in enumerate(ages):
        model.objects.create(digest=bytes([number] * 16), **{column: now - old}, **extra)


def test_ids_go_when_their_window_is_over():
    unique_ids().add_many(list("abc"))
    run(unique_ids(), "d")
    assert purge() == "0 records deleted in database 'default'."
    age()
    unique_ids().add("e")
    assert purge() == "0 records deleted, 4 unique ids deleted in database 'default'."
    assert ["a" in unique_ids(), "e" in unique_ids()] == [False, True]


def test_leases_go_when_they_are_over_and_fences_when_nobody_took_them_for_a_day():
    keep(LockLease, "expires_at", DAY, timedelta(seconds=1), -DAY)
    keep(LockFence, "taken_at", 2 * DAY, timedelta(hours=25), timedelta(hours=23), timedelta(0))
    told = "0 records deleted, 2 lock leases deleted, 2 lock fences deleted in database 'default'."
    assert purge() == told
    assert (LockLease.objects.count(), LockFence.objects.count()) == (1, 2)
    assert purge() == "0 records deleted in database 'default'."


def test_a_dry_run_counts_and_keeps_them():
    unique_ids().add_many(list("ab"))
    age()
    keep(LockLease, "expires_at", DAY)
    keep(LockFence, "taken_at", 2 * DAY)
    told = "0 records to delete, 2 unique ids to delete, 1 lock lease to delete, 1 lock fence to delete"
    assert purge("--dry-run") == f"{told} in database 'default'."
    assert UniqueId.objects.count() == 2


def test_ids_that_are_left_when_the_time_is_over_are_said():
    unique_ids().add_many(list("abcde"))
    age()
    with pytest.raises(CommandError, match="rows are left"):
        purge("--batch-size=2", "--max-seconds=0.000001")
    assert UniqueId.objects.count() == 3


def test_an_id_that_somebody_holds_is_left_without_waiting(neighbour):  # noqa: F811
    unique_ids().add_many(list("abc"))
    age()
    held = UniqueId.objects.first()
    with neighbour.cursor() as cursor:
        cursor.execute("SELECT id FROM idempotency_unique_id WHERE id = %s FOR UPDATE", [held.pk])
    assert "2 unique ids deleted, 1 in use and left" in purge()


def elsewhere(work):
    """In a transaction of its own, on a connection of its own."""

    def call():
        try:
            work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_an_id_that_is_handled_again_while_it_is_purged_stays(monkeypatch, batch_size):
    """It takes over the row that the purge has found by then."""
    unique_ids().add_many(list("ab"))
    age()
    found = Purge._next_batch
    once = []

    def next_batch(self, rows, *arguments):
        batch = found(self, rows, *arguments)
        if batch and rows.model is UniqueId and not once:
            once.append(elsewhere(lambda: unique_ids().add("a") and unique_ids().add("b")))
        return batch

    monkeypatch.setattr(Purge, "_next_batch", next_batch)
    purge(f"--batch-size={batch_size}")
    assert UniqueId.objects.count() == 2
    assert unique_ids().add_many(list("ab")) == [False, False]


def test_what_is_claimed_stays_for_its_window(settings):
    settings.IDEMPOTENCY_UNIQUE_IDS = {"default": {"CLAIM": timedelta(minutes=1)}}
    guard = unique_ids().once("a")
    guard._take_first()
    age(timedelta(hours=24))
    assert "unique id" not in purge()
    age(timedelta(minutes=2))
    assert "1 unique id deleted" in purge()
