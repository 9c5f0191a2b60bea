"""Deadlines: the database's time, renewal, and what is lost when it ends."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from idempotency import renewal
from idempotency.decorators import idempotent
from idempotency.exceptions import AlreadyCompleted, OperationInProgress
from idempotency.models import IdempotencyRecord
from idempotency.nesting import innermost
from idempotency.steps import operation
from tests.conftest import in_a_thread, let_lease_pass
from tests.guards.test_leases import complete, lease_guard, on_sqlite
from tests.leases.programs import orders, run_once, write
from tests.processes.gates import STUCK
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)
LEASE = timedelta(seconds=60)


@pytest.fixture(params=[-600, 600], ids=["behind", "ahead"])
def wrong_clock(request, monkeypatch):
    """This machine's."""

    def shifted(clock, by):
        return lambda *arguments: clock(*arguments) + by

    for module, name, by in (
        (time, "time", request.param),
        (timezone, "now", timedelta(seconds=request.param)),
    ):
        monkeypatch.setattr(module, name, shifted(getattr(module, name), by))


def test_a_machine_with_a_wrong_clock_takes_over_no_sooner_and_no_later(wrong_clock):
    with pytest.raises(AlreadyCompleted), lease_guard(lease=LEASE, rerun=True) as guard:
        guard._transaction.roll_back()
        with pytest.raises(OperationInProgress) as refusal:
            in_a_thread(lambda: complete(lease=LEASE, rerun=True))
        assert 55 < refusal.value.retry_after <= 60
        let_lease_pass()
        in_a_thread(lambda: complete(lease=LEASE, rerun=True))


def deadline():
    return IdempotencyRecord.objects.values_list("expires_at", flat=True).get()


@pytest.mark.skipif(on_sqlite, reason="on SQLite the work keeps the renewal from writing, and all others too")
def test_a_lease_is_renewed_while_the_work_goes_on_and_not_for_longer():
    with lease_guard(lease=timedelta(seconds=1)) as guard:
        lease, first = guard._store.lease, in_a_thread(deadline)
        give_up_at = time.monotonic() + STUCK
        while in_a_thread(deadline) < first + timedelta(seconds=2):
            assert time.monotonic() < give_up_at
            with pytest.raises(OperationInProgress):
                in_a_thread(complete)
        assert renewal.ref(lease) in renewal._renewals[lease.medium]._due
    assert renewal.ref(lease) not in renewal._renewals[lease.medium]._due


def test_what_hangs_is_not_renewed_for_ever(settings):
    settings.IDEMPOTENCY_RENEW_FOR = timedelta(0)
    with lease_guard() as guard:
        assert guard._store.lease.keep() is None
        assert not guard._store.lease.is_lost


def steal():
    IdempotencyRecord.objects.update(fence=9)


def test_a_renewal_that_finds_another_owner_says_so():
    with pytest.raises(OperationInProgress), lease_guard() as guard:
        guard._transaction.roll_back()
        steal()
        assert guard._store.lease.keep() is None
        assert guard._store.lease.is_lost


@pytest.mark.skipif(on_sqlite, reason="SQLite has one writer at a time")
def test_a_step_that_lost_its_lease_meanwhile_is_rolled_back(monkeypatch):
    function = write.function
    monkeypatch.setattr(write, "function", lambda reference: [function(reference), in_a_thread(steal)][0])
    with pytest.raises(OperationInProgress):
        run_once(write, name="test-lost")("a")
    assert orders() == []


def test_no_step_begins_once_the_lease_is_known_to_be_lost():
    @operation("test-known-lost", steps=[write])
    def run(reference):
        innermost("run").lease.is_lost = True
        write(reference)

    with pytest.raises(OperationInProgress):
        idempotent(key="reference", mode="lease")(run)("a")
    assert orders() == []


@pytest.mark.skipif(on_sqlite, reason="SQLite has one writer at a time")
def test_an_owner_whose_time_is_over_and_whom_nobody_followed_may_end():
    with lease_guard():
        Order.objects.create(reference="a")
        in_a_thread(let_lease_pass)
    assert orders() == [""]
