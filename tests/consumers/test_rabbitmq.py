"""Workers on a real broker: messages that come twice, workers that die, a broker that is away."""

from __future__ import annotations

import uuid

import pytest

from idempotency.models import FailedMessage, InboxMessage
from tests.conftest import beside_postgresql
from tests.processes.messaging import wait_until
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]), beside_postgresql]


def events(number, **payload):
    return [({"event_id": str(uuid.uuid4())}, payload) for _ in range(number)]


def test_each_message_is_handled_and_acknowledged(queues, workers):
    sent = events(20)
    queues.publish("orders.place", *sent, *sent[:5])
    worker = workers("orders.place")
    worker.start(2)
    wait_until(lambda: InboxMessage.objects.count() == 20)
    wait_until(lambda: queues.left("orders.place") == 0)
    assert worker.stop() == [0, 0]
    assert queues.left("orders.place") == 0
    assert Order.objects.count() == 20
    assert not FailedMessage.objects.exists()
