"""Operations that cannot be gone on with, or cannot work: what is told, and that nothing is done."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction

from idempotency.decorators import idempotent
from idempotency.exceptions import (
    NotStorable,
    StepsChanged,
)
from idempotency.models import IdempotencyRecord
from idempotency.steps import (
    database_step,
    operation,
    outside_call,
)
from tests.leases.programs import (
    CALLS,
    break_off,
    call,
    call_blindly,
    finish,
    orders,
    run_once,
    write,
)
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]


# Changes between two runs


@pytest.mark.parametrize(
    "changed",
    [
        lambda: run_once(write, call, finish, name="changing", version=2),
        lambda: run_once(write, call, name="changing"),
        lambda: run_once(call, write, finish, name="changing"),
        lambda: run_once(write, call, finish, name="renamed"),
    ],
    ids=["version", "one fewer", "another order", "another name"],
)
def test_changed_steps_are_an_error_and_the_former_ones_can_still_go_on(changed):
    run = run_once(write, call, finish, name="changing")
    break_off(run)
    with pytest.raises(StepsChanged, match="cannot be gone on with"):
        changed()("a")
    assert orders() == [""]
    run_once(write, call, finish, name="changing")("a")
    assert orders() == ["", "finished"]


def test_another_way_than_before_is_an_error_and_does_nothing():
    way = [write, call]

    @operation("test-ways", steps=[write, call, call_blindly])
    def run(reference):
        for step in way:
            step(reference)

    run = idempotent(key="reference", mode="lease")(run)
    break_off(run)
    way.reverse()
    with pytest.raises(StepsChanged, match="where write was called"):
        run("a")
    way.reverse()
    run("a")
    assert orders() == [""]


def test_other_arguments_than_before_are_an_error_and_do_nothing():
    suffix = {"step": "", "operation": ""}

    @operation("test-arguments", steps=[write, call])
    def inner(reference):
        write(reference + suffix["step"])
        call(reference)

    @idempotent(key="reference", mode="lease", steps=inner)
    def run(reference):
        inner(reference + suffix["operation"])

    break_off(run)
    for place, told in (("step", "write is called with other"), ("operation", "begun with other")):
        suffix[place] = "!"
        with pytest.raises(StepsChanged, match=f"{told} arguments"):
            run("a")
        suffix[place] = ""
    run("a")
    assert orders() == [""]


# Mistakes


def test_steps_and_operations_want_a_lease():
    run = run_once(write)
    with pytest.raises(RuntimeError, match="under a lease"):
        write("a")
    with pytest.raises(RuntimeError, match="idempotency_steps"):
        run.__wrapped__("a")


def test_another_operation_than_was_named_is_refused():
    @operation("test-another", steps=[write])
    def another(reference):
        write(reference)

    @idempotent(key="reference", mode="lease", steps=run_once(write).__wrapped__)
    def run(reference):
        another(reference)

    with pytest.raises(RuntimeError, match="nowhere to note its steps"):
        run("a")
    assert not IdempotencyRecord.objects.exists()


def test_a_step_that_is_not_listed_is_refused():
    @operation("test-unlisted", steps=[write])
    def run(reference):
        call(reference)

    with pytest.raises(TypeError, match="not among the steps"):
        idempotent(key="reference", mode="lease")(run)("a")
    assert CALLS == []


def test_steps_do_not_nest_and_need_no_transaction_around_them():
    @database_step()
    def outer(reference):
        write(reference)

    with pytest.raises(RuntimeError, match="do not nest"):
        run_once(outer, write)("a")

    @operation("test-in-a-transaction", steps=[write])
    def run(reference):
        with transaction.atomic():
            write(reference)

    with pytest.raises(RuntimeError, match="outside of transaction"):
        idempotent(key="reference", mode="lease")(run)("a")
    assert orders() == []


def test_a_database_error_that_a_step_swallows_costs_it_its_writes():
    @database_step()
    def swallow(reference):
        Order.objects.create(reference=reference)
        try:
            Order.objects.create(reference="broken", note="forbidden")
        except IntegrityError:
            return "fine"

    with pytest.raises(transaction.TransactionManagementError):
        run_once(swallow)("a")
    assert orders() == []


@pytest.mark.parametrize("arguments", [{1, 2}, object(), (1, 2)], ids=["set", "object", "tuple"])
def test_arguments_that_are_no_json_are_refused(arguments):
    @operation("test-json", steps=[write])
    def inner(what):
        write("a")

    @idempotent(key="reference", mode="lease", steps=inner)
    def run(reference):
        inner(arguments)

    with pytest.raises(NotStorable, match="arguments of test-json"):
        run("a")
    assert orders() == []


def coroutine():
    async def work(reference): ...

    return work


def generator():
    def work(reference):
        yield

    return work


@pytest.mark.parametrize(
    "decorate",
    [
        lambda: operation("x", steps=[])(lambda reference: None),
        lambda: operation("x" * 256, steps=[write])(lambda reference: None),
        lambda: operation("x", steps=[print])(lambda reference: None),
        lambda: operation("x", steps=[write, write])(lambda reference: None),
        lambda: operation("x", steps=[write])(coroutine()),
        lambda: operation("x", steps=[write])(lambda *references: None),
        lambda: operation(lambda reference: None),
        lambda: database_step()(coroutine()),
        lambda: database_step()(generator()),
        lambda: database_step(refusals=("Refused",))(lambda reference: None),
        lambda: outside_call(when_broken="later")(lambda reference: None),
        lambda: idempotent(key="reference", mode="leese"),
        lambda: idempotent(key="reference", rerun=True),
        lambda: idempotent(key="reference", mode="lease", steps=print),
        lambda: idempotent(key="reference", mode="lease", rerun=True, steps=run_once(write).__wrapped__),
        lambda: idempotent(key="reference", mode="lease", lease=3),
    ],
)
def test_what_cannot_work_is_told_when_it_is_declared(decorate):
    with pytest.raises(TypeError):
        decorate()


def test_two_operations_of_one_name_are_a_mistake():
    run_once(write, name="test-twice")
    with pytest.raises(TypeError, match="two operations"):

        @operation("test-twice", steps=[write])
        def another(reference): ...


def test_a_completed_operation_is_replayed_whatever_became_of_its_steps():
    first = run_once(write, name="test-replayed")("a")
    assert run_once(write, call, name="test-replayed", version=2)("a") == first
    assert CALLS == []
