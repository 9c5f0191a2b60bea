"""The completer: goes on with what was abandoned, without whoever began it."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from idempotency.decorators import idempotent
from idempotency.leases.completing import Completer, Outcome
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.signals import recovered
from idempotency.steps import on_behalf_of, operation, outside_call
from tests.conftest import State, in_a_thread, let_lease_pass
from tests.guards.test_leases import abandon
from tests.leases.programs import (
    CALLS,
    PLAN,
    Refused,
    befall,
    call,
    call_and_ask,
    finish,
    orders,
    run_once,
    write,
)
from tests.leases.test_faults import PAYMENT, paid, pay
from tests.processes.provider import Fault

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]


def complete(*options):
    out = StringIO()
    call_command("complete_idempotency", *options, stdout=out)
    return out.getvalue()


def outcomes(**options):
    return [treated.outcome for treated in Completer("default").run(**options)]


def be_killed(*arguments, run, at):
    """At this step, and of its own accord nothing is given back."""
    PLAN[at] = SystemExit()
    with pytest.raises(SystemExit):
        run(*arguments)
    # As if it had not said that whoever comes next may go on.
    let_lease_pass()


def test_what_was_broken_off_is_done_to_its_end_and_a_retry_has_the_answer():
    run = run_once(write, call, finish)
    be_killed("a", run=run, at="call")
    assert outcomes() == [Outcome.DONE]
    assert orders() == ["", "finished"]
    assert IdempotencyRecord.objects.get().state == State.COMPLETED
    assert run("a")[1] == ["a", 2]
    assert (len(CALLS), len(set(CALLS))) == (2, 1)
    assert not OperationRun.objects.exists()


def test_without_the_request_a_view_is_not_answered_and_the_next_one_is(alice, provider):
    provider.befall(Fault.DROPPED)
    assert pay(alice, "retry").status_code == 409
    assert "1 done" in complete()
    assert paid() == [("a", "paid")]
    assert IdempotencyRecord.objects.get().state == State.FINISHED
    assert "Nothing was abandoned" in complete()
    requests = len(provider.requests)
    answers = [pay(alice, "retry"), pay(alice, "retry")]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[1]["Idempotency-Replayed"] == "true"
    assert len(provider.requests) == requests
    assert len(provider.charges) == 1


def test_another_payload_is_refused_after_the_completer_too(alice, provider):
    provider.befall(Fault.DROPPED)
    pay(alice, "retry")
    complete()
    other = alice.once("/pay-retry/", {**PAYMENT, "cents": 1}, "key-1", format="json")
    assert other.status_code == 422


def test_it_asks_what_became_of_a_call_until_somebody_knows(alice, provider):
    provider.reset(is_idempotent=False)
    provider.befall(Fault.DROPPED, Fault.UNAVAILABLE)
    pay(alice, "reconcile")
    assert outcomes() == [Outcome.UNKNOWN]
    assert outcomes() == []  # not yet again
    let_lease_pass()
    OperationRun.objects.update(resume_at=None)
    assert outcomes() == [Outcome.DONE]
    assert len(provider.charges) == 1


def test_what_nobody_can_be_asked_is_left_to_an_operator(alice, provider):
    provider.befall(Fault.DROPPED)
    pay(alice, "unknown")
    for _ in range(2):
        said = complete()
        assert "unknown: nobody can be asked: an operator decides" in said
    assert len(provider.charges) == 1


def test_what_may_not_be_run_again_becomes_unknown():
    @idempotent(key="reference", mode="lease")
    def run(reference):
        raise SystemExit

    with pytest.raises(SystemExit):
        run("a")
    IdempotencyRecord.objects.update(state=State.RUNNING)
    let_lease_pass()
    assert outcomes(dry_run=True) == [Outcome.UNKNOWN]
    assert IdempotencyRecord.objects.get().state == State.RUNNING
    assert outcomes() == [Outcome.UNKNOWN]
    assert IdempotencyRecord.objects.get().state == State.UNKNOWN


def test_what_only_its_caller_can_run_again_waits():
    abandon(rerun=True)
    assert outcomes() == [Outcome.WAITS]
    assert "only its caller's retry" in complete()


def test_what_had_not_begun_is_freed():
    record = IdempotencyRecord.objects.create(
        key_digest=bytes(16),
        scope=bytes(16),
        principal=bytes(16),
        operation="x",
        fingerprint=bytes(17),
        state=State.RUNNING,
        fence=1,
        created_at="2026-01-01T00:00Z",
        expires_at="2026-01-01T00:00Z",
    )
    OperationRun.objects.create(
        record=record, name="any", steps_digest=bytes(16), retention=timedelta(days=1)
    )
    assert outcomes(dry_run=True) == outcomes() == [Outcome.FREED]
    assert not IdempotencyRecord.objects.exists()
    assert not OperationRun.objects.exists()


def test_what_was_begun_by_another_release_waits_for_it():
    run = run_once(write, call, finish, name="test-deployed")
    be_killed("a", run=run, at="call")
    OperationRun.objects.update(steps_digest=bytes(16))
    assert "other steps than it has now" in complete()
    OperationRun.objects.update(name="test-gone")
    assert "no operation 'test-gone' is registered here" in complete()
    assert orders() == [""]


def test_what_fails_again_is_told_and_not_tried_at_once():
    run = run_once(write, call, finish)
    be_killed("a", run=run, at="call")
    PLAN["finish"] = LookupError("no")
    with pytest.raises(CommandError, match="Some failed"):
        complete()
    run_row = OperationRun.objects.get()
    assert (run_row.attempts, run_row.last_error) == (2, "LookupError: no")
    assert outcomes() == []
    # Its caller need not wait.
    assert run("a")[2] == "x"


def test_what_the_operation_was_refused_is_its_end():
    run = run_once(write, call)
    PLAN["call"] = Refused("no money")
    with pytest.raises(Refused):
        run("a")
    assert IdempotencyRecord.objects.get().state == State.FINISHED
    IdempotencyRecord.objects.update(state=State.RUNNING)
    let_lease_pass()
    assert outcomes() == [Outcome.DONE]
    for _ in range(2):
        with pytest.raises(Refused, match="no money"):
            run("a")
    assert (len(CALLS), orders()) == (1, [""])


def test_it_runs_on_behalf_of_whoever_began():
    told = []

    @operation("test-behalf-of", steps=[write, call])
    def run(reference):
        write(reference)
        call(reference)
        told.append(on_behalf_of())

    guarded = idempotent(key="reference", mode="lease", scope=lambda reference: ("tenant", "acme"))(run)
    be_killed("a", run=guarded, at="call")
    assert outcomes() == [Outcome.DONE]
    assert told == [("tenant", "acme")]
    assert len(set(CALLS)) == 1


def test_a_dry_run_says_what_would_be_done_and_does_nothing():
    run = run_once(write, call, finish)
    be_killed("a", run=run, at="call")
    assert "1 to go on with in database 'default'." in complete("--dry-run")
    assert orders() == [""]


def test_metrics_hear_of_each(announced_recoveries):
    run = run_once(write, call_and_ask)
    be_killed("a", run=run, at="call_and_ask")
    PLAN["find_out"] = "still unknown"
    outcomes()
    ((key, outcome, reason),) = announced_recoveries
    assert (key.operation, outcome) == ("run", "unknown")
    assert "operator" in reason


@pytest.fixture
def announced_recoveries():
    heard = []

    def hear(key, outcome, reason, **extra):
        heard.append((key, outcome, reason))

    recovered.connect(hear)
    yield heard
    recovered.disconnect(hear)


@outside_call(when_broken="retry")
def call_slowly(reference):
    befall("call_slowly")
    if meanwhile := PLAN.pop("meanwhile", None):
        meanwhile()
    return "called"


@pytest.mark.parametrize("is_answer", [True, False], ids=["the answer", "within it"])
def test_a_completer_that_comes_late_leaves_it_to_who_has_taken_over(is_answer):
    @operation(f"test-late-{is_answer}", steps=[write, call_slowly])
    def slow(reference):
        write(reference)
        return call_slowly(reference)

    def around(reference):
        return slow(reference)

    options = {"key": "reference", "mode": "lease", "operation": "run"}
    run = idempotent(**options)(slow) if is_answer else idempotent(**options, steps=slow)(around)
    be_killed("a", run=run, at="call_slowly")

    def take_over():
        let_lease_pass()
        run("a")

    PLAN["meanwhile"] = partial(in_a_thread, take_over)
    assert outcomes() == [Outcome.TAKEN]
    assert run("a") == "called"
    assert orders() == [""]


def test_a_completer_that_comes_late_leaves_it_to_who_is_at_work():
    run = run_once(write, call_slowly)
    be_killed("a", run=run, at="call_slowly")
    PLAN["meanwhile"] = partial(in_a_thread, lambda: IdempotencyRecord.objects.update(fence=9))
    assert outcomes() == [Outcome.TAKEN]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--batch-size", "0"), "--batch-size takes 1 to"),
        (("--interval", "0"), "--interval takes"),
        (("--loop", "--dry-run"), "without --loop"),
        (("--database", "nowhere"), "There is no database 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_told(options, told):
    with pytest.raises(CommandError, match=told):
        complete(*options)
