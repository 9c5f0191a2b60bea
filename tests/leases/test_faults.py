"""Calls to a provider that break in every way, and what the operation makes of it."""

from __future__ import annotations

import pytest

from idempotency.models import IdempotencyRecord, OperationRun
from tests.conftest import State, let_lease_pass, problem
from tests.processes.provider import Fault
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]

BROKEN = [Fault.REFUSED, Fault.DROPPED, Fault.RESET, Fault.CUT_SHORT, Fault.ERROR, Fault.BAD_GATEWAY]
BROKEN += [Fault.UNAVAILABLE, Fault.TIMED_OUT, Fault.BUSY]
ACTED = {Fault.DROPPED, Fault.RESET, Fault.CUT_SHORT, Fault.ERROR}
PAYMENT = {"reference": "a", "cents": 700}


def pay(alice, meaning, key="key-1"):
    return alice.once(f"/pay-{meaning}/", PAYMENT, key, format="json")


def paid():
    return list(Order.objects.values_list("reference", "note"))


@pytest.mark.parametrize("meaning", ["retry", "reconcile", "unknown"])
def test_without_a_fault_it_is_paid_and_the_answer_replayed(alice, provider, meaning):
    first, second = pay(alice, meaning), pay(alice, meaning)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second["Idempotency-Replayed"] == "true"
    assert (len(provider.charges), paid()) == (1, [("a", "paid")])
    assert not OperationRun.objects.exists()


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("is_idempotent", [True, False])
@pytest.mark.parametrize("meaning", ["retry", "reconcile"])
def test_a_call_that_breaks_is_made_good_by_the_retry(alice, provider, meaning, fault, is_idempotent):
    if meaning == "retry" and not is_idempotent:
        pytest.skip("needs an idempotent provider, which is what it declares")
    provider.reset(is_idempotent=is_idempotent)
    provider.befall(fault)
    broken = pay(alice, meaning)
    assert problem(broken, 409, "conflict")
    assert broken["Retry-After"] == "1"
    answer = pay(alice, meaning)
    assert answer.status_code == 201
    assert (len(provider.charges), paid()) == (1, [("a", "paid")])
    assert answer.json()["charge"] == provider.charges[0]["id"]
    assert pay(alice, meaning).content == answer.content


@pytest.mark.parametrize("fault", BROKEN)
def test_where_nobody_can_be_asked_the_outcome_is_unknown_and_stays_so(alice, provider, fault):
    provider.reset(is_idempotent=False)
    provider.befall(fault)
    for _ in range(3):
        answer = pay(alice, "unknown")
        assert answer.status_code == 409
        assert answer.json()["code"] == "outcome-unknown"
        assert "Retry-After" not in answer
        let_lease_pass()
    assert len(provider.charges) == (fault in ACTED)
    assert paid() == [("a", "reserved")]
    assert IdempotencyRecord.objects.get().state == State.UNKNOWN


def test_while_the_provider_cannot_say_the_outcome_is_unknown_until_it_can(alice, provider):
    provider.reset(is_idempotent=False)
    provider.befall(Fault.DROPPED, Fault.UNAVAILABLE)
    assert problem(pay(alice, "reconcile"), 409, "conflict")
    assert pay(alice, "reconcile").json()["code"] == "outcome-unknown"
    # It is not asked again at once.
    assert pay(alice, "reconcile").json()["code"] == "outcome-unknown"
    assert len(provider.requests) == 1
    let_lease_pass()
    assert pay(alice, "reconcile").status_code == 201
    assert (len(provider.charges), paid()) == (1, [("a", "paid")])


def test_every_retry_hands_on_the_same_key_and_another_operation_another(alice, provider):
    provider.befall(Fault.DROPPED, Fault.RESET)
    for _ in range(3):
        pay(alice, "retry")
    pay(alice, "retry", key="key-2")
    first, *again, other = [request["key"] for request in provider.requests]
    assert again == [first, first]
    assert other != first


def test_a_refusal_of_the_other_side_is_answered_once_and_for_all(alice, provider):
    provider.befall(Fault.DECLINED)
    answers = [pay(alice, "retry"), pay(alice, "retry")]
    assert [answer.status_code for answer in answers] == [402, 402]
    assert answers[1]["Idempotency-Replayed"] == "true"
    assert len(provider.requests) == 1
