"""
A worker that runs each of many users' operations once, and again, until it is told to stop.

`python -m tests.processes.sharding FOLDER SEED`: writes how far it is to FOLDER/SEED, and ends with the round
that FOLDER/stop names. Prints how often it was refused, and what it was answered, as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import django

django.setup()

from idempotency.decorators import idempotent  # noqa: E402
from idempotency.exceptions import IdempotencyError  # noqa: E402
from idempotency.shards import shard_map  # noqa: E402
from tests.project.models import Order  # noqa: E402

USERS = 40
STUCK = 120


def place(user: str, key: str) -> str:
    """Routed by nothing but the guard it is in."""
    slot = shard_map().slot_of(("user", user))
    return Order.objects.create(reference=key, owner=f"{user} {uuid4().hex[:12]}", note=str(slot)).owner


place_atomic = idempotent(key="key", operation="place", scope=lambda user, key: ("user", user))(place)
place_leased = idempotent(
    key="key", operation="place", scope=lambda user, key: ("user", user), mode="lease", rerun=True
)(place)


def run_until_done(user: str, key: str) -> str:
    deadline = time.monotonic() + STUCK
    while True:
        try:
            return (place_leased if int(user) % 4 == 0 else place_atomic)(user, key)
        except IdempotencyError as error:
            refused[type(error).__name__] += 1
            if time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0, 0.02))


def rounds():
    number, stop = 0, folder / "stop"
    while True:
        yield number
        (folder / seed).write_text(str(number))
        if stop.exists() and number >= int(stop.read_text() or 10**9):
            return
        number += 1


if __name__ == "__main__":
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    random.seed(int(seed))
    refused: Counter[str] = Counter()
    answers: dict[str, str] = {}
    for number in rounds():
        for user in random.sample(range(USERS), USERS):
            key = f"{number}:{user}"
            answers[key] = run_until_done(str(user), key)
    print(json.dumps({"refused": refused, "answers": answers}))
