"""What a purge does to records under leases, and to their runs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from idempotency.database import DatabaseNow
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.purging import Purge
from tests.conftest import State
from tests.guards.test_leases import complete, lease_guard

pytestmark = pytest.mark.django_db(transaction=True)


def expire(**values):
    IdempotencyRecord.objects.update(expires_at=DatabaseNow() - timedelta(seconds=5), **values)


def finished(key="k"):
    """As the completer leaves it."""
    complete(key)
    record = IdempotencyRecord.objects.get(key=key)
    OperationRun.objects.create(record=record, steps_digest=bytes(16), retention=timedelta(1))
    IdempotencyRecord.objects.filter(pk=record.pk).update(state=State.FINISHED)


@pytest.mark.parametrize("erasing", [False, True], ids=["purge", "erasure"])
def test_a_claim_that_takes_an_expired_record_up_meanwhile_stays(erasing, monkeypatch):
    complete()
    expire()
    purge, guard, process = Purge("default"), lease_guard(), Purge._process

    def claim_and_process(*arguments):
        guard.__enter__()
        guard._transaction.roll_back()
        return process(*arguments)

    monkeypatch.setattr(Purge, "_process", claim_and_process)
    purge.erase("user", "1") if erasing else purge.delete_expired()
    guard._leave()
    assert IdempotencyRecord.objects.get().state == State.RUNNING
    assert purge.counts["deleted"] == 0


def test_what_was_finished_goes_with_its_run_and_counts_once():
    finished("old")
    expire()
    finished("new")
    purge = Purge("default")
    assert purge.delete_expired()
    assert purge.counts["deleted"] == 1
    assert OperationRun.objects.get().record.key == "new"


def test_a_principals_finished_records_are_erased_with_their_runs():
    finished()
    purge = Purge("default")
    assert purge.erase("user", "1")
    assert (purge.counts["deleted"], purge.counts["unfinished"]) == (1, 0)
    assert not IdempotencyRecord.objects.exists()
    assert not OperationRun.objects.exists()
