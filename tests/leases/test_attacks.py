"""What somebody tried who wanted a step done twice, left out, or stuck."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection

from idempotency.decorators import idempotent
from idempotency.exceptions import StepsChanged, StoreUnavailable
from idempotency.leases.completing import Completer
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps import database_step, operation
from tests.conftest import State
from tests.leases.programs import CALLS, PLAN, break_off, call, finish, orders, write
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3]


def once(operation):
    return idempotent(key="reference", mode="lease", operation="run")(operation)


@database_step()
def order(reference):
    PLAN["lost"] = PLAN.pop("lose", False)
    return Order.objects.create(reference=reference).pk


def test_a_step_whose_commit_was_not_answered_is_not_done_again_by_the_same_run(monkeypatch):
    commit = connection.commit

    def lose(*arguments):
        commit()
        if PLAN.pop("lost", None):
            connection.connection.close()
            raise OperationalError("server closed the connection unexpectedly")

    @operation("test-insisting", steps=[order])
    def run(reference):
        for _ in range(3):
            try:
                return order(reference)
            except StoreUnavailable:
                continue

    PLAN["lose"] = True
    monkeypatch.setattr(connection, "commit", lose)
    with pytest.raises((StoreUnavailable, RuntimeError)):
        once(run)("a")
    assert once(run)("a") == Order.objects.get().pk


@operation("test-shorter", steps=[write, call, finish])
def run_shorter(reference):
    write(reference)
    if PLAN.get("stop"):
        return "nothing was called"
    return finish(reference, call(reference))


def test_a_run_that_ends_before_a_call_of_which_nobody_knows_is_no_answer():
    run = once(run_shorter)
    break_off(run)
    PLAN["stop"] = True
    with pytest.raises(StepsChanged, match="ended before it came to call"):
        run("a")
    assert [treated.outcome for treated in Completer("default").run()] == ["waits"]
    assert IdempotencyRecord.objects.get().state == State.RUNNING
    del PLAN["stop"]
    run("a")
    assert orders() == ["", "finished"]


def test_a_view_that_answers_without_its_operation_does_not_hide_what_that_has_done():
    @idempotent(key="reference", mode="lease", steps=run_shorter)
    def run(reference):
        return "already paid" if PLAN.get("answer") else run_shorter(reference)

    break_off(run)
    PLAN["answer"] = True
    with pytest.raises(StepsChanged, match="ended before it came to write"):
        run("a")
    del PLAN["answer"]
    run("a")
    assert len(set(CALLS)) == 1


def test_nor_does_the_completer_where_the_operation_is_not_the_whole_answer():
    @idempotent(key="reference", mode="lease", steps=run_shorter)
    def run(reference):
        return run_shorter(reference)

    break_off(run)
    PLAN["stop"] = True
    assert [treated.outcome for treated in Completer("default").run()] == ["waits"]
    assert IdempotencyRecord.objects.get().state == State.RUNNING


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_an_error_that_no_column_takes_does_not_hide_itself(text):
    run = once(run_shorter)
    PLAN["finish"] = LookupError(text)
    with pytest.raises(LookupError):
        run("a")
    assert OperationRun.objects.get().last_error.startswith("LookupError: a\\")
    run("a")
