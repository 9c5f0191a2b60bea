"""Messages that nobody should send, brokers and operators in the way."""

from __future__ import annotations

import pytest
from django.db import transaction

from idempotency import outbox
from idempotency.outbox.sending import DEEPEST_HEADER
from tests.outbox.conftest import states

pytestmark = pytest.mark.django_db(transaction=True)


def nested(depth):
    headers = "innermost"
    for _ in range(depth):
        headers = {"n": headers}
    return headers


def test_headers_too_deep_for_the_publisher_are_refused_when_they_are_sent(queue, publisher):
    with transaction.atomic():
        outbox.send({}, headers=nested(DEEPEST_HEADER), routing_key=queue.name, event_id="e-1")
        for depth in (DEEPEST_HEADER + 1, 500, 1200):
            with pytest.raises(ValueError, match="no JSON that a broker takes"):
                outbox.send({}, headers=nested(depth), routing_key=queue.name)
    assert publisher.run().published == 1
    assert states() == {"e-1": "PUBLISHED"}
