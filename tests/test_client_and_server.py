"""Clients that retry, and a server that is killed under them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from idempotency.client import IdempotencyTransport, Retries
from tests.processes.gates import STUCK, Gate
from tests.processes.server import Server
from tests.project.models import Order

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
PATIENT = Retries(attempts=500, pause=0.05, longest_pause=0.1, give_up_after=STUCK)
ORDER = {"reference": "order-1"}


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "server.log") as server:
        yield server


def client(server, retries=PATIENT):
    transport = IdempotencyTransport(retries=retries)
    headers = {"X-User": "alice"}
    return httpx.Client(
        transport=transport, headers=headers, base_url=f"http://127.0.0.1:{server.port}", timeout=STUCK
    )


def test_one_order_is_made_and_its_answer_had_although_the_server_was_killed(server):
    with Gate() as gate, client(server) as asking, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asking.post, "/race/", json=ORDER, headers=gate.headers)
        gate.wait_for()
        # The order is written, and not committed.
        server.kill()
        server.start()
        # It comes again, under the same key.
        gate.wait_for()
        gate.release()
        response = waiting.result(STUCK)
    assert response.status_code == 201
    (order,) = Order.objects.all()
    assert response.json()["id"] == order.pk


def test_all_who_send_the_same_at_once_have_the_same_answer_in_the_end(server):
    key = {"Idempotency-Key": "theirs"}

    def send(_):
        with client(server) as asking:
            return asking.post("/race/", json=ORDER, headers=key)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert Order.objects.count() == 1
