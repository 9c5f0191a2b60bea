"""What an operator decides about an operation whose outcome nobody knows, and what its caller then gets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from time import sleep

import pytest
from django.db import connections

from idempotency.database import DatabaseNow
from idempotency.exceptions import DecisionRefused, NotStorable, OutcomeUnknown
from idempotency.leases.completing import Completer, Outcome
from idempotency.leases.decisions import mark_call_done, mark_call_not_done, mark_done, seen_as
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.responses import StoredResponse
from idempotency.steps.journal import BEGUN, DONE, loaded
from tests.conftest import Caller, State, let_lease_pass
from tests.guards.test_leases import abandon, lease_guard
from tests.leases.test_faults import paid, pay
from tests.processes.provider import Fault

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]

ANSWER = StoredResponse(201, {"Content-Type": "application/json"}, b'{"charge":7}')
DECISIONS = {
    "done": lambda record: mark_done(record, ANSWER),
    "call done": lambda record: mark_call_done(record, 7),
    "call not done": mark_call_not_done,
}
DAY = timedelta(days=1)


def looked_at():
    return IdempotencyRecord.objects.select_related("run").get()


@pytest.fixture
def unknown(alice, provider):
    """The record of a payment that was made, and whose answer was lost."""
    provider.reset(is_idempotent=False)
    provider.befall(Fault.DROPPED)
    assert pay(alice, "unknown").status_code == 409
    return looked_at()


@pytest.fixture(params=DECISIONS)
def decide(request):
    """Each decision in turn."""
    return DECISIONS[request.param]


def test_what_is_marked_done_is_answered_as_the_operator_says(alice, provider, unknown):
    mark_done(unknown, ANSWER)
    answer = pay(alice, "unknown")
    assert (answer.status_code, answer.content) == (201, ANSWER.body)
    assert (answer["Content-Type"], answer["Idempotency-Replayed"]) == ("application/json", "true")
    assert (len(provider.requests), paid()) == (1, [("a", "reserved")])
    assert not OperationRun.objects.exists()


def test_a_call_that_was_done_is_not_made_again_and_its_result_is_the_one_given(alice, provider, unknown):
    mark_call_done(unknown, 7)
    answer = pay(alice, "unknown")
    assert (answer.status_code, answer.json()["charge"]) == (201, 7)
    assert (len(provider.requests), paid()) == (1, [("a", "paid")])
    assert pay(alice, "unknown").content == answer.content


def test_a_call_that_was_not_done_is_made_again(alice, provider):
    provider.befall(Fault.REFUSED)
    pay(alice, "unknown")
    mark_call_not_done(looked_at())
    answer = pay(alice, "unknown")
    assert (answer.status_code, answer.json()["charge"]) == (201, provider.charges[0]["id"])
    assert (len(provider.charges), paid()) == (1, [("a", "paid")])


@pytest.mark.parametrize("decision", ["call done", "call not done"])
def test_the_completer_goes_on_from_what_was_decided(alice, provider, unknown, decision):
    OperationRun.objects.update(resume_at=DatabaseNow() + DAY)
    DECISIONS[decision](looked_at())
    assert [treated.outcome for treated in Completer("default").run()] == [Outcome.DONE]
    assert looked_at().state == State.FINISHED
    assert pay(alice, "unknown").status_code == 201
    assert paid() == [("a", "paid")]


def test_the_journal_says_what_was_decided_of_the_call_alone(unknown):
    reserved, broken = loaded(unknown.run.journal)
    mark_call_done(unknown, {"id": 7})
    kept, concluded = loaded(looked_at().run.journal)
    assert (broken.state, concluded.state, concluded.value) == (BEGUN, DONE, {"id": 7})
    assert (kept, concluded.asked) == (reserved, broken.asked)
    assert (looked_at().state, looked_at().fence) == (State.RUNNING, unknown.fence + 1)


@pytest.mark.parametrize(("own", "kept"), [(timedelta(days=3), timedelta(days=3)), (None, 2 * DAY)])
def test_it_is_kept_as_long_as_its_run_or_the_setting_says(settings, own, kept):
    settings.IDEMPOTENCY_RETENTION = 2 * DAY
    abandon(rerun=own is not None, retention=own)
    mark_done(looked_at(), StoredResponse.from_result(1))
    rows = IdempotencyRecord.objects.filter(expires_at__gt=DatabaseNow() + kept - timedelta(minutes=1))
    assert rows.filter(expires_at__lt=DatabaseNow() + kept + timedelta(minutes=1)).exists()


def test_what_may_not_be_run_again_is_answered_when_it_is_marked_done():
    abandon()
    with pytest.raises(OutcomeUnknown), lease_guard():
        pass
    mark_done(looked_at(), StoredResponse.from_result({"total": 7}))
    record = looked_at()
    assert (record.state, record.fence, record.response.result) == (State.COMPLETED, 2, {"total": 7})


@pytest.mark.parametrize("change", [{"fence": 9}, {"state": State.RUNNING}])
def test_a_decision_about_what_has_changed_since_is_refused(decide, unknown, change):
    IdempotencyRecord.objects.update(**change, expires_at=DatabaseNow() - DAY)
    now = seen_as(looked_at())
    with pytest.raises(DecisionRefused, match="changed since"):
        decide(unknown)
    assert seen_as(looked_at()) == now


def test_a_decision_is_refused_when_its_owner_went_on_meanwhile_under_the_same_fence(decide, unknown):
    entries = loaded(unknown.run.journal)
    OperationRun.objects.update(journal=json.dumps([vars(entry) for entry in [*entries, entries[-1]]]))
    with pytest.raises(DecisionRefused):
        decide(unknown)
    record = looked_at()
    assert (record.state, record.fence) == (State.UNKNOWN, unknown.fence)


def test_what_somebody_works_on_is_not_decided(decide, unknown):
    IdempotencyRecord.objects.update(state=State.RUNNING, expires_at=DatabaseNow() + DAY)
    with pytest.raises(DecisionRefused):
        decide(looked_at())
    let_lease_pass()
    decide(looked_at())


def test_what_was_finished_and_cannot_be_answered_otherwise_is_by_an_operator(unknown, alice):
    IdempotencyRecord.objects.update(state=State.FINISHED)
    DECISIONS["done"](looked_at())
    assert pay(alice, "unknown").content == ANSWER.body


def test_what_is_completed_is_not_decided(decide, unknown):
    IdempotencyRecord.objects.update(state=State.COMPLETED, expires_at=DatabaseNow() - DAY)
    with pytest.raises(DecisionRefused):
        decide(looked_at())


@pytest.mark.parametrize("decision", ["call done", "call not done"])
def test_a_call_is_decided_only_where_one_has_broken_off(decision):
    abandon(rerun=True)
    with pytest.raises(DecisionRefused, match="break off in a call"):
        DECISIONS[decision](looked_at())


def test_a_result_that_is_not_json_is_refused_and_nothing_written(unknown):
    with pytest.raises(NotStorable):
        mark_call_done(unknown, {1: "a"})
    assert seen_as(looked_at()) == seen_as(unknown)


def test_an_owner_who_comes_late_is_out(decide, alice, provider):
    provider.reset(is_idempotent=False)
    provider.befall(Fault.HELD)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(pay_and_hang_up)
        while not provider.charges:
            sleep(0.01)
        let_lease_pass()
        decide(looked_at())
        decided = seen_as(looked_at())
        provider.let_go()
        answer = late.result()
    assert seen_as(looked_at()) == decided
    if looked_at().state == State.COMPLETED:
        assert (answer.status_code, answer.content) == (201, ANSWER.body)
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert paid() == [("a", "reserved")]


def pay_and_hang_up():
    try:
        return pay(Caller("alice"), "unknown")
    finally:
        connections.close_all()
