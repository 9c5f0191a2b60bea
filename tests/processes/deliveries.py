"""
Processes that deliver the events of many objects, all of them those of one object at the same time.

`python -m tests.processes.deliveries < plan`, a JSON object: model, processes, and objects, each named
after its events in their order: "sps" is sent, packed, sent. Prints [object, event, answer] of each
delivery as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

import django

django.setup()

from django.apps import apps  # noqa: E402

from idempotency.exceptions import OperationInProgress, TransitionRejected  # noqa: E402
from tests.processes.rivals import STUCK  # noqa: E402

STATUSES = {"p": "packed", "s": "sent", "d": "delivered", "l": "lost"}
REDELIVERIES = 100


def deliver(name, event):
    """As a consumer does it; a broker delivers again what was not acknowledged."""
    options = {"event_id": f"{name} {event}"}
    if model.status_ordering.field:
        options["sequence"] = 1 + list(STATUSES).index(event)
    for _ in range(REDELIVERIES):
        try:
            subject = model.for_event(name, defaults={})
            return subject.transition_to(STATUSES[event], **options).value
        except TransitionRejected:
            return "rejected"
        except OperationInProgress:
            continue
    return "in progress"


def consume(number):
    try:
        return [answer for turn in enumerate(plan["objects"]) for answer in deliveries(number, *turn)]
    except BaseException:
        # Nobody need wait for this one.
        barrier.abort()
        raise


def deliveries(number, turn, name):
    barrier.wait(STUCK)
    # Not always the same process comes first.
    share = name[(number + turn) % plan["processes"] :: plan["processes"]]
    return [(name, event, deliver(name, event)) for event in share]


if __name__ == "__main__":
    plan = json.load(sys.stdin)
    model = apps.get_model("project", plan["model"])
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(plan["processes"])
    with fork.Pool(plan["processes"]) as pool:
        answers = pool.map(consume, range(plan["processes"]), chunksize=1)
    json.dump([answer for each in answers for answer in each], sys.stdout)
