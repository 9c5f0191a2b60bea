"""The record's guard in mode lease: the contract, and what becomes of what ends without an answer."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction

from idempotency.exceptions import (
    AlreadyCompleted,
    FingerprintMismatch,
    OperationInProgress,
    OutcomeUnknown,
)
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.leases import LeaseGuard
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.responses import StoredResponse
from tests.conftest import in_a_thread, let_lease_pass
from tests.guards.contract import GuardContract, UnderRepeatableRead
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
State = IdempotencyRecord.State
on_sqlite = connection.vendor == "sqlite"


def lease_guard(key="k", payload=b"payload", **options):
    return LeaseGuard(
        ScopedKey(("user", "1"), "order", key), Fingerprint(payload), using="default", **options
    )


def complete(key="k", payload=b"payload", result=None, **options):
    with lease_guard(key, payload, **options) as guard:
        guard.complete(StoredResponse.from_result(result))


def state():
    return IdempotencyRecord.objects.get().state


class TestLeaseGuardThatMayRunAgain(GuardContract):
    def guard(self, key):
        return lease_guard(key, rerun=True)

    @pytest.mark.skipif(on_sqlite, reason="SQLite has one writer at a time")
    def test_another_key_gets_in_meanwhile(self):
        super().test_another_key_gets_in_meanwhile()


class TestLeaseGuard(TestLeaseGuardThatMayRunAgain):
    frees_on_failure = False

    def guard(self, key):
        return lease_guard(key)


@pytest.mark.skipif(on_sqlite, reason="SQLite has one isolation level")
class TestLeaseGuardUnderRepeatableRead(UnderRepeatableRead, TestLeaseGuard):
    pass


class TestLeaseGuardUnderSerializable(TestLeaseGuardUnderRepeatableRead):
    level = "serializable"


def test_a_completed_operation_hands_out_its_response():
    complete(result={"total": 7})
    with pytest.raises(AlreadyCompleted) as done, lease_guard():
        pass
    assert done.value.record.response.result == {"total": 7}
    assert not OperationRun.objects.exists()


def test_an_answer_from_the_record_keeps_the_connection():
    complete()
    before = connection.connection
    for _ in range(2):
        with pytest.raises(AlreadyCompleted):
            complete()
    assert connection.connection is before is not None


@pytest.mark.parametrize("rerun", [False, True])
def test_another_payload_is_refused_in_every_state(rerun):
    complete("done", rerun=rerun)
    with pytest.raises(FingerprintMismatch), lease_guard("done", b"other", rerun=rerun):
        pass
    with lease_guard("running", rerun=rerun), pytest.raises(FingerprintMismatch):
        in_a_thread(lambda: complete("running", b"other", rerun=rerun))
    IdempotencyRecord.objects.update(state=State.RUNNING)
    let_lease_pass()
    with pytest.raises(FingerprintMismatch), lease_guard("done", b"other", rerun=rerun):
        pass


def test_the_claim_is_committed_before_the_work_and_the_response_with_its_writes():
    with lease_guard() as guard:
        Order.objects.create(reference="a")
        guard.complete(StoredResponse.from_result(1))
        assert in_a_thread(lambda: (state(), Order.objects.count())) == (State.RUNNING, 0)
    assert state() == State.COMPLETED
    assert Order.objects.count() == 1


def test_whoever_comes_meanwhile_is_told_what_is_left_of_the_lease():
    with lease_guard(lease=timedelta(seconds=100)), pytest.raises(OperationInProgress) as refusal:
        in_a_thread(complete)
    assert 95 < refusal.value.retry_after <= 100


def test_what_ended_in_an_exception_is_unknown_and_stays_so():
    with pytest.raises(LookupError), lease_guard():
        Order.objects.create(reference="a")
        raise LookupError
    assert not Order.objects.exists()
    assert state() == State.UNKNOWN
    for options in ({}, {"rerun": True}):
        with pytest.raises(OutcomeUnknown), lease_guard(**options):
            pass


def test_what_was_abandoned_may_not_be_run_again_and_is_unknown():
    abandon()
    with pytest.raises(OutcomeUnknown), lease_guard():
        pass
    assert state() == State.UNKNOWN


def test_what_was_abandoned_and_may_be_run_again_is():
    abandon(rerun=True)
    complete(result=2, rerun=True)
    with pytest.raises(AlreadyCompleted) as done, lease_guard():
        pass
    assert done.value.record.response.result == 2
    assert not OperationRun.objects.exists()


def abandon(**options):
    """As a process does that is killed."""
    guard = lease_guard(**options)
    guard.__enter__()
    guard._transaction.roll_back()
    guard._leave()
    let_lease_pass()


def test_a_late_owner_rolls_back_and_is_given_the_winners_answer():
    late = lease_guard(rerun=True)
    with pytest.raises(AlreadyCompleted) as done, late:
        late._transaction.roll_back()
        late._leave()
        let_lease_pass()
        complete(result="winner", rerun=True)
        with late._transaction.opened():
            Order.objects.create(reference="late")
        late.complete(StoredResponse.from_result("late"))
    assert done.value.guard is late
    assert done.value.record.response.result == "winner"
    assert not Order.objects.exists()


def test_an_expired_response_is_replaced_and_its_fence_counts_on():
    complete(result=1, rerun=True)
    IdempotencyRecord.objects.update(expires_at="2000-01-01T00:00Z")
    with pytest.raises(LookupError), lease_guard(payload=b"other", rerun=False):
        raise LookupError
    record = IdempotencyRecord.objects.get()
    assert (record.state, record.fence, record.status) == (State.UNKNOWN, 2, None)


def test_a_known_failure_frees_the_key():
    with lease_guard() as guard:
        Order.objects.create(reference="a")
        guard.abandon()
    assert not Order.objects.exists()
    assert not IdempotencyRecord.objects.exists()


def test_a_failure_of_which_nobody_knows_what_it_did_is_unknown():
    with lease_guard() as guard:
        guard.abandon(is_known=False)
    assert state() == State.UNKNOWN


def test_an_answer_without_its_writes_is_kept():
    with lease_guard() as guard:
        Order.objects.create(reference="a")
        guard.complete(StoredResponse(status=400, body=b"no"), keep_writes=False)
    assert not Order.objects.exists()
    assert IdempotencyRecord.objects.get().status == 400


def test_it_refuses_to_begin_within_a_transaction():
    with transaction.atomic(), pytest.raises(RuntimeError, match="non_atomic_requests"), lease_guard():
        pass
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.skipif(on_sqlite, reason="SQLite has one writer at a time")
def test_given_up_for_unknown_it_is_known_when_its_owner_comes_back():
    with lease_guard() as guard:
        with pytest.raises(OutcomeUnknown):
            in_a_thread(come_when_it_has_passed)
        guard.complete(StoredResponse.from_result("late"))
    assert state() == State.COMPLETED


def come_when_it_has_passed():
    let_lease_pass()
    complete()


@pytest.mark.django_db(transaction=False)
def test_it_works_within_a_test_case():
    complete(result=3)
    with pytest.raises(AlreadyCompleted), lease_guard():
        pass
