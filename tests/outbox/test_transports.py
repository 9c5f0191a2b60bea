"""Kombu's transports that are no AMQP."""

from __future__ import annotations

import pytest
from django.db import transaction
from kombu import Connection

from idempotency import outbox
from tests import services
from tests.conftest import in_turn
from tests.outbox.conftest import send, states

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["filesystem", "redis"])
def transport(request, settings, tmp_path):
    """Others of kombu's, on which consumers take from a queue."""
    folders = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path)}
    if request.param == "redis":
        settings.IDEMPOTENCY_BROKERS = {"default": {"URL": f"redis://127.0.0.1:{services.redis.port}/7"}}
        in_turn("redis")
    else:
        folders |= {"control_folder": str(tmp_path / "control")}
        settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "filesystem://", "TRANSPORT_OPTIONS": folders}}
    options = settings.IDEMPOTENCY_BROKERS["default"]
    with Connection(options["URL"], transport_options=options.get("TRANSPORT_OPTIONS", {})) as connection:
        yield connection


def test_other_transports_take_messages_into_their_queues(transport, publisher, name):
    with transaction.atomic():
        outbox.send({"order": 17}, routing_key=name, event_id="a", key="k")
        outbox.send({"order": 18}, routing_key=name, event_id="b", key="k")
    assert publisher.run().published == 2
    channel, got = transport.channel(), []
    while message := channel.basic_get(name, no_ack=True):
        got.append(channel.message_to_python(message))
    # Of what was published within a millisecond, the filesystem has no order.
    assert {message.headers["event_id"]: message.payload["order"] for message in got} == {"a": 17, "b": 18}


def test_another_transport_that_is_away_is_an_outage(settings, publisher):
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "redis://127.0.0.1:1/7"}}
    send("a")
    assert publisher.run().away
    assert states() == {"a": "WAITING"}
