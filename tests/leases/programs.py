"""Steps that do what a test has planned, and operations of them."""

from __future__ import annotations

import json

import pytest

from idempotency.decorators import idempotent
from idempotency.exceptions import (
    BrokenCall,
)
from idempotency.models import OperationRun
from idempotency.steps import (
    database_step,
    operation,
    outside_call,
)
from tests.project.models import Order


class Refused(Exception):
    pass


CALLS = []
"""What was done outside."""
PLAN = {}
"""What is to happen in a step, by its name: an exception that it raises, after its work."""


def befall(step):
    if error := PLAN.pop(step, None):
        raise error


@database_step(refusals=(Refused,))
def write(reference):
    order = Order.objects.create(reference=reference)
    befall("write")
    return {"order": order.pk}


@outside_call(when_broken="retry", refusals=(Refused,))
def call(reference):
    CALLS.append(call.downstream_key)
    befall("call")
    return [reference, len(CALLS)]


@outside_call(when_broken="unknown")
def call_blindly(reference):
    CALLS.append(reference)
    befall("call_blindly")
    return "called"


def find_out(reference):
    return PLAN.pop("find_out")


@outside_call(when_broken=find_out)
def call_and_ask(reference):
    CALLS.append(call_and_ask.downstream_key)
    befall("call_and_ask")
    return "called"


@database_step()
def finish(reference, called):
    Order.objects.create(reference=reference, note="finished")
    befall("finish")
    return called


def run_once(*steps, name=None, **options):
    """``run(reference)``: an operation that calls these steps, under a key."""

    @operation(name or f"test-{'-'.join(step.name for step in steps)}", steps=steps, **options)
    def run(reference):
        answers = []
        for step in steps:
            answers.append(step(reference, "x") if step is finish else step(reference))
        befall("operation")
        return answers

    return idempotent(key="reference", mode="lease", operation="run")(run)


def orders():
    return list(Order.objects.order_by("pk").values_list("note", flat=True))


def journal():
    return [(entry["step"], entry["state"]) for entry in json.loads(OperationRun.objects.get().journal)]


def break_off(run, reference="a"):
    PLAN["call"] = LookupError()
    with pytest.raises(BrokenCall):
        run(reference)
