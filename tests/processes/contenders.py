"""
Eight processes that consume one token at the same time, and each write an order when they may.

`python -m tests.processes.contenders ALIAS TOKEN ON_FAILURE` prints what each was told, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys

import django

django.setup()

from idempotency.exceptions import IdempotencyError  # noqa: E402
from idempotency.tokens import tokens  # noqa: E402
from tests.project.models import Order  # noqa: E402

PROCESSES = 8
STUCK = 60
HOLDER = ("user", "1")


def contend(number: int) -> str:
    barrier.wait(STUCK)
    try:
        with tokens(alias).consume(token, HOLDER, on_failure=on_failure):
            Order.objects.create(reference=f"contender {number}")
    except IdempotencyError as error:
        return error.code
    return "ran"


if __name__ == "__main__":
    alias, token, on_failure = sys.argv[1:]
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(PROCESSES)
    with fork.Pool(PROCESSES) as pool:
        json.dump(pool.map(contend, range(PROCESSES), chunksize=1), sys.stdout)
