"""Clients that retry until they are answered, and a server that is killed under them, for a while."""

from __future__ import annotations

import http.client
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.processes.server import Server
from tests.project.models import Order

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
CLIENTS = 6


def answer(server, key):
    """As a client does: the same request until there is an answer to it."""
    while True:
        try:
            answer = server.post("/race/", {"reference": key}, key)
        except (OSError, http.client.HTTPException):
            continue
        if not answer.refused:
            return answer


def shop(server, number, deadline):
    """Responses by key; every operation is asked for twice."""
    responses = {}
    while time.monotonic() < deadline:
        key = f"{number}-{len(responses)}"
        responses[key] = {answer(server, key).response for _ in range(2)}
    return responses


@pytest.mark.parametrize("seconds", [6, pytest.param(300, marks=pytest.mark.soak)])
def test_retrying_clients_are_served_once_while_the_server_is_killed_again_and_again(tmp_path, seconds):
    deadline = time.monotonic() + seconds
    kills, pause, chance = 0, Event(), random.Random(seconds)
    with Server(tmp_path / "log") as server, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(shop, server, number, deadline) for number in range(CLIENTS)]
        while time.monotonic() < deadline:
            pause.wait(chance.uniform(0.05, 0.5))  # at no moment in particular
            server.kill()
            server.start()
            kills += 1
        responses = {key: kept for client in clients for key, kept in client.result().items()}
    assert kills
    assert Counter(Order.objects.values_list("reference", flat=True)) == dict.fromkeys(responses, 1)
    assert all(len(kept) == 1 for kept in responses.values())
    assert {status for kept in responses.values() for status, *_ in kept} == {201}
