"""
Processes that fight over the same rows.

`python -m tests.processes.fights < plan`, a JSON object: fight, processes, rounds. Prints what each
process was told, round by round, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

import django

django.setup()

from django.db import DatabaseError, transaction  # noqa: E402

from idempotency.database import sqlstate  # noqa: E402
from idempotency.exceptions import NotApplied, OperationInProgress, TransitionRejected  # noqa: E402
from idempotency.status import lock_rows  # noqa: E402
from tests.processes.rivals import STUCK  # noqa: E402
from tests.project.models import Door, Order, Parcel, Product  # noqa: E402

RETRIES = 1_000
SERIALIZATION_FAILURE = "40001"


def until_told(change):
    """As a consumer's broker has it: again, while it is told that somebody else is at it."""
    for _ in range(RETRIES):
        try:
            return change()
        except TransitionRejected:
            return "rejected"
        except OperationInProgress:
            continue
    return "in progress"


def shared(number, turn):
    """The name of something that two of the processes do at the same time."""
    return f"{number // 2}-{turn}"


def stay(number, turn):
    parcel = Parcel.objects.get()
    return until_told(lambda: parcel.transition_to("new", event_id=shared(number, turn)).value)


def stay_guarded(number, turn):
    parcel = Parcel.objects.get()

    def change():
        try:
            with parcel.transition("new", event_id=shared(number, turn)):
                Order.objects.create(reference=shared(number, turn))
        except NotApplied as refusal:
            return refusal.outcome.value
        return "applied"

    return until_told(change)


def swing(number, turn):
    door = Door.objects.get()
    return until_told(lambda: door.transition_to(Door.State.CLOSED if turn % 2 else Door.State.OPEN).value)


def lose_or_move_on(number, turn):
    parcel = Parcel.objects.get(reference=str(turn))
    # All but the first come too early at times, and are rejected.
    status = ("packed", "sent", "delivered", "lost")[number % 4]
    return until_told(lambda: parcel.transition_to(status, event_id=f"{status} {number}").value)


def post(number, turn):
    product = Product.objects.get()
    amount = 1 if turn % 2 else -1
    return until_told(lambda: product.increment("stock", amount, operation_id=shared(number, turn)).applied)


def opposite(number):
    """The same rows in opposite orders, in which InnoDB comes upon them by either index, too."""
    pks, references = zip(*Parcel.objects.filter(note="wanted").values_list("pk", "reference"), strict=True)
    if number % 2:
        return Parcel.objects.filter(pk__in=pks).order_by("pk")
    return Parcel.objects.filter(reference__in=references).order_by("-pk")


def told_of_conflicts(lock):
    """ "done"; "overtaken" by a change that PostgreSQL's snapshot does not have; else "refused"."""
    try:
        with transaction.atomic():
            lock()
    except (DatabaseError, OperationInProgress) as error:
        cause = error if isinstance(error, DatabaseError) else error.__cause__
        return "overtaken" if sqlstate(cause) == SERIALIZATION_FAILURE else "refused"
    return "done"


def lock_together(number, turn):
    def lock():
        for parcel in lock_rows(opposite(number)):
            Order.objects.create(reference=parcel.reference)

    return told_of_conflicts(lock)


def change_together(number, turn):
    def change():
        for parcel in lock_rows(opposite(number)):
            parcel.transition_to("new", event_id=f"{number}-{turn}")

    return told_of_conflicts(change)


def lock_one_by_one(number, turn):
    def lock():
        for pk in list(opposite(number).values_list("pk", flat=True)):
            Order.objects.create(reference=Parcel.objects.select_for_update().get(pk=pk).reference)

    # One is enough to see; PostgreSQL takes a second to find it.
    answer = "over" if over.is_set() else told_of_conflicts(lock)
    if answer == "refused":
        over.set()
    return answer


FIGHTS = {
    each.__name__: each
    for each in (
        *(stay, stay_guarded, swing, lose_or_move_on, post),
        *(lock_together, change_together, lock_one_by_one),
    )
}


def fight(number):
    barrier.wait(STUCK)
    return [FIGHTS[plan["fight"]](number, turn) for turn in range(plan["rounds"])]


if __name__ == "__main__":
    plan = json.load(sys.stdin)
    fork = multiprocessing.get_context("fork")
    barrier, over = fork.Barrier(plan["processes"]), fork.Event()
    with fork.Pool(plan["processes"]) as pool:
        json.dump(pool.map(fight, range(plan["processes"]), chunksize=1), sys.stdout)
