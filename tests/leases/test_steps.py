"""Operations made of steps, under ``@idempotent``: what is done again, what is not, and what is refused."""

from __future__ import annotations

import pytest
from django.db import transaction

from idempotency.decorators import idempotent
from idempotency.exceptions import (
    BrokenCall,
    NotStorable,
    OperationInProgress,
    OutcomeUnknown,
)
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps import (
    NOT_DONE,
    STILL_UNKNOWN,
    Done,
    database_step,
    downstream_key,
    on_behalf_of,
    operation,
    outside_call,
)
from tests.conftest import State, let_lease_pass
from tests.leases.programs import (
    CALLS,
    PLAN,
    Refused,
    befall,
    call,
    call_and_ask,
    call_blindly,
    finish,
    journal,
    orders,
    run_once,
    write,
)
from tests.project.models import Order, Parcel

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]


def test_it_reads_and_runs_like_the_unguarded_one_and_is_done_once():
    run = run_once(write, call, finish)
    first = run("a")
    assert run("a") == first
    assert first[1:] == [["a", 1], "x"]
    assert orders() == ["", "finished"]
    assert not OperationRun.objects.exists()
    assert IdempotencyRecord.objects.get().state == State.COMPLETED


@pytest.mark.parametrize("broken", ["write", "call", "finish", "operation"])
def test_a_retry_goes_on_from_the_last_point_with_the_results_so_far(broken):
    run = run_once(write, call, finish)
    PLAN[broken] = LookupError()
    with pytest.raises(BrokenCall if broken == "call" else LookupError):
        run("a")
    answer = run("a")
    assert orders() == ["", "finished"]
    assert answer[0] == {"order": Order.objects.earliest("pk").pk}
    assert len(CALLS) == (2 if broken == "call" else 1)
    assert len(set(CALLS)) == 1
    assert run("a") == answer


def test_nothing_is_left_of_what_failed_before_its_first_point():
    run = run_once(write, call)
    PLAN["write"] = LookupError()
    with pytest.raises(LookupError):
        run("a")
    assert not IdempotencyRecord.objects.exists()
    assert not OperationRun.objects.exists()
    assert orders() == []


def test_a_step_whose_commit_hook_fails_is_done_all_the_same():
    @database_step()
    def hooked(reference):
        Order.objects.create(reference=reference)
        transaction.on_commit(lambda: befall("hook"))

    run = run_once(hooked)
    PLAN["hook"] = LookupError()
    with pytest.raises(LookupError):
        run("a")
    run("a")
    assert orders() == [""]


def test_a_refusal_is_an_outcome_which_is_told_again():
    @operation("test-refusals", steps=[write, call, finish])
    def run(reference):
        try:
            write(reference)
        except Refused as refusal:
            told = list(refusal.args)
        try:
            call(reference)
        except Refused as refusal:
            told += refusal.args
        return finish(reference, told)

    run = idempotent(key="reference", mode="lease")(run)
    PLAN.update(write=Refused("no stock", 3), call=Refused("no money"), finish=LookupError())
    with pytest.raises(LookupError):
        run("a")
    # Both would succeed by now.
    assert run("a") == ["no stock", 3, "no money"]
    assert orders() == ["finished"]
    assert len(CALLS) == 1


def test_what_a_refusal_cannot_be_made_of_again_is_its_text():
    run = run_once(write, call)
    PLAN["call"] = Refused(Refused("deep"))
    for _ in range(2):
        with pytest.raises(Refused, match="deep"):
            run("a")
    assert len(CALLS) == 1


# Calls that break


def test_nobody_knows_what_became_of_a_blind_call():
    run = run_once(write, call_blindly, finish)
    PLAN["call_blindly"] = ConnectionError()
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            run("a")
        let_lease_pass()
    assert CALLS == ["a"]
    assert orders() == [""]
    assert journal() == [("write", "done"), ("call_blindly", "begun")]


@pytest.mark.parametrize(
    ("found", "calls", "answer"), [(Done("found"), 1, "found"), (NOT_DONE, 2, "called")], ids=str
)
def test_the_other_side_is_asked_before_it_is_called_again(found, calls, answer):
    run = run_once(write, call_and_ask, finish)
    PLAN.update(call_and_ask=ConnectionError(), find_out=found)
    with pytest.raises(BrokenCall):
        run("a")
    assert run("a")[1] == answer
    assert len(CALLS) == calls
    assert len(set(CALLS)) == 1


def test_a_call_that_breaks_is_no_defect_of_the_program_and_logged_whole(caplog):
    run = run_once(call)
    PLAN["call"] = ConnectionError("cut")
    with pytest.raises(BrokenCall, match="'call'") as refusal:
        run("a")
    assert isinstance(refusal.value.__cause__, ConnectionError)
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.exc_info[1] is refusal.value.__cause__
    assert OperationRun.objects.get().last_error == "ConnectionError: cut"


def test_an_answer_that_is_none_is_a_mistake_and_nothing_is_called():
    run = run_once(call_and_ask)
    PLAN.update(call_and_ask=ConnectionError(), find_out=None)
    with pytest.raises(BrokenCall):
        run("a")
    with pytest.raises(TypeError, match="Done"):
        run("a")
    assert len(CALLS) == 1


def test_as_long_as_the_other_side_does_not_know_nothing_is_done():
    run = run_once(call_and_ask)
    PLAN["call_and_ask"] = ConnectionError()
    with pytest.raises(BrokenCall):
        run("a")
    PLAN["find_out"] = STILL_UNKNOWN
    for _ in range(2):  # the second time, nobody is asked
        with pytest.raises(OutcomeUnknown):
            run("a")
    let_lease_pass()
    with pytest.raises(OutcomeUnknown):  # whoever is asked raises KeyError
        run("a")
    let_lease_pass()
    PLAN["find_out"] = Done("found")
    assert run("a") == ["found"]
    assert len(CALLS) == 1


def test_a_broken_call_that_is_swallowed_is_no_answer_and_nothing_follows_it():
    followed = []

    @operation("test-swallowing", steps=[call, finish])
    def run(reference):
        try:
            call(reference)
        except ConnectionError:
            try:
                finish(reference, "x")
            except BrokenCall as error:
                followed.append(error)
            return "swallowed"
        return finish(reference, "called")

    run = idempotent(key="reference", mode="lease")(run)
    PLAN["call"] = ConnectionError()
    with pytest.raises(OperationInProgress, match="call"):
        run("a")
    assert len(followed) == 1
    assert run("a") == "called"
    assert orders() == ["finished"]


def test_a_result_that_cannot_be_kept_leaves_the_call_broken():
    @outside_call(when_broken="unknown")
    def call_for_an_object(reference):
        CALLS.append(reference)
        return object()

    run = run_once(call_for_an_object)
    with pytest.raises(NotStorable, match="call_for_an_object"):
        run("a")
    with pytest.raises(OutcomeUnknown):
        run("a")
    assert CALLS == ["a"]


# Keys


def test_each_call_has_a_key_of_its_own_and_keeps_it():
    @operation("test-keys", steps=[call, finish])
    def run(reference):
        for number in range(3):
            call(f"{reference} {number}")
        return finish(reference, "x")

    run = idempotent(key="reference", mode="lease")(run)
    PLAN["finish"] = LookupError()
    with pytest.raises(LookupError):
        run("a")
    run("a")
    assert len(CALLS) == len(set(CALLS)) == 3
    run("b")
    assert len(set(CALLS)) == 6


def test_a_key_without_steps_is_the_same_for_whoever_runs_again():
    keys = []

    @idempotent(key="reference", mode="lease", rerun=True)
    def run(reference):
        keys.extend((downstream_key(), downstream_key("other")))
        befall("run")

    PLAN["run"] = LookupError()
    with pytest.raises(LookupError):
        run("a")
    run("a")
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


def test_within_another_guard_a_downstream_key_is_still_the_operations():
    keys = []

    @idempotent(key="reference", mode="lease", rerun=True)
    def run(reference):
        keys.append(downstream_key())
        with Parcel.objects.create(reference=reference).transition("packed"):
            keys.append(downstream_key())

    run("a")
    assert keys[0] == keys[1]


def test_keys_and_callers_are_of_what_is_under_way():
    for ask in (downstream_key, on_behalf_of, lambda: call.downstream_key):
        with pytest.raises(RuntimeError, match="under way"):
            ask()


def test_an_operation_knows_on_whose_behalf_it_runs():
    @operation("test-behalf", steps=[write])
    def run(reference):
        return list(on_behalf_of())

    run = idempotent(key="reference", mode="lease", scope=lambda reference: ("tenant", "acme"))(run)
    assert run("a") == ["tenant", "acme"]


# What the journal survives


@database_step()
def pick(reference):
    return ["a", "b", "c"]


def test_a_result_that_is_told_again_and_changed_by_its_caller_stays_as_it_was():
    @operation("test-changing-results", steps=[pick, call])
    def run(reference):
        items, told = pick(reference), []
        while items:
            if len(told) == PLAN.get("so far"):
                PLAN["call"] = LookupError()
            told.append(call(items.pop())[0])
        return told

    run = idempotent(key="reference", mode="lease")(run)
    # Each run has one call more, and so writes the journal that it was told from.
    for so_far in range(3):
        PLAN["so far"] = so_far
        with pytest.raises(BrokenCall):
            run("a")
    del PLAN["so far"]
    assert run("a") == ["c", "b", "a"]


class Declined(Exception):
    """Has another constructor than its arguments say, and what is no JSON."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code, self.answer = code, object()


class Stolen(Declined):
    pass


@outside_call(when_broken="retry", refusals=(Declined,))
def decline(reference):
    CALLS.append(reference)
    raise Stolen(43, "stolen")


def test_a_refusal_is_told_again_whatever_its_class():
    @operation("test-declining", steps=[decline, write])
    def run(reference):
        try:
            decline(reference)
        except Declined as declined:
            write(reference)
            return [type(declined).__name__, str(declined), declined.code]

    run = idempotent(key="reference", mode="lease")(run)
    PLAN["write"] = LookupError()
    with pytest.raises(LookupError):
        run("a")
    assert run("a") == ["Stolen", "43: stolen", 43]
    assert CALLS == ["a"]


def test_after_a_failure_that_is_no_refusal_no_other_step_is_called():
    @operation("test-passing-over", steps=[write, finish])
    def run(reference):
        try:
            return write(reference)
        except LookupError:
            return finish(reference, "passed over")

    run = idempotent(key="reference", mode="lease")(run)
    PLAN["write"] = LookupError("no stock")
    with pytest.raises(RuntimeError, match="name it among the refusals"):
        run("a")
    assert orders() == []
    run("a")
    assert orders() == [""]
