"""
Eight processes that enter one guard at the same time, and each write an order when they may.

`python -m tests.processes.contenders GUARD ALIAS KEY ON_FAILURE` prints what each was told, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

import django

django.setup()

from idempotency.exceptions import IdempotencyError  # noqa: E402
from idempotency.tokens import tokens  # noqa: E402
from idempotency.unique_ids import unique_ids  # noqa: E402
from tests.project.models import Order  # noqa: E402

PROCESSES = 8
STUCK = 60
HOLDER = ("user", "1")
GUARDS = {
    "token": lambda alias, token, on_failure: tokens(alias).consume(token, HOLDER, on_failure=on_failure),
    "unique-id": lambda alias, id, on_failure: unique_ids(alias).once(id, on_failure=on_failure),
}


def contend(number: int) -> str:
    barrier.wait(STUCK)
    try:
        with GUARDS[mechanism](*arguments):
            Order.objects.create(reference=f"contender {number}")
    except IdempotencyError as error:
        return error.code
    return "ran"


if __name__ == "__main__":
    mechanism, *arguments = sys.argv[1:]
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(PROCESSES)
    with fork.Pool(PROCESSES) as pool:
        json.dump(pool.map(contend, range(PROCESSES), chunksize=1), sys.stdout)
