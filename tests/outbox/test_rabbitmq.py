"""A real RabbitMQ: what it confirms, returns and refuses, and what it does not answer."""

from __future__ import annotations

import json

import pytest
from django.db import transaction

from idempotency import outbox
from idempotency.models import OutboxMessage
from idempotency.outbox import confirming
from idempotency.outbox.links import Outcome, connected
from tests.conftest import beside_postgresql
from tests.outbox.conftest import let_pause_pass, send, states, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), beside_postgresql]


def test_a_message_arrives_as_it_was_sent_and_is_persistent(queue, publisher):
    headers = {"trace": ["a", 1, None, {"b": [True, 0.5]}], "least": -(2**63)}
    with transaction.atomic():
        event_id = outbox.send({"order": 17}, routing_key=queue.name, headers=headers)
    assert publisher.run().published == 1
    (message,) = queue.messages()
    assert json.loads(message.body) == {"order": 17}
    assert message.headers == {**headers, "event_id": event_id}
    properties = message.properties
    assert (properties["message_id"], properties["delivery_mode"]) == (event_id, 2)
    assert (properties["content_type"], properties["content_encoding"]) == ("application/json", "utf-8")


def test_a_large_body_and_the_longest_headers_arrive(queue, publisher):
    body = bytes(300_000)
    numbers = list(range(2, 9)) * 1000
    with transaction.atomic():
        outbox.send(body, routing_key=queue.name, content_type="a/b", headers={"n": numbers})
    assert publisher.run().published == 1
    (message,) = queue.messages()
    assert (message.body, message.headers["n"]) == (body, numbers)


def test_of_many_each_arrives_once_and_those_of_a_key_in_their_order(queue, publisher):
    with transaction.atomic():
        for number in range(90):
            key = "" if number % 3 == 0 else f"key-{number % 3}"
            outbox.send({}, routing_key=queue.name, event_id=number, key=key)
    assert publisher.run().published == 90
    numbers = list(map(int, queue.event_ids()))
    assert sorted(numbers) == list(range(90))
    for rest in (1, 2):
        of_key = [number for number in numbers if number % 3 == rest]
        assert of_key == sorted(of_key)


def test_what_no_queue_takes_fails_alone_and_arrives_when_there_is_one(declare, publisher, channel):
    queue = declare()
    late = f"{queue.name}-late"
    send("a", queue=queue.name)
    send("b", queue=late, key="k")
    send("c", queue=queue.name, key="k")
    # The same event to two places.
    send("a", queue=late)
    passed = publisher.run()
    assert (passed.published, len(passed.failed)) == (1, 2)
    assert f"No queue is bound to the default exchange under '{late}'" in passed.failed[0]
    assert queue.event_ids() == ["a"]
    channel.queue_declare(late, durable=True, auto_delete=False)
    try:
        let_pause_pass()
        assert publisher.run().published == 3
        assert queue.event_ids() == ["c"]
    finally:
        assert channel.queue_delete(late) == 2


def test_an_exchange_that_is_not_there_fails_its_messages_alone(queue, publisher, channel):
    exchange = f"{queue.name}-exchange"
    send("a", queue=queue.name)
    send("b", exchange=exchange, queue="paid", key="k")
    send("c", queue=queue.name, key="k")
    send("d", queue=queue.name)
    passed = publisher.run()
    assert passed.published == 2
    assert "NOT_FOUND - no exchange" in passed.failed[0]
    channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
    channel.queue_bind(queue.name, exchange, "paid")
    let_pause_pass()
    assert publisher.run().published == 2
    send("e", "f", exchange=exchange, queue="paid", key="k")
    send("g", queue=queue.name)
    channel.exchange_delete(exchange)
    # It was there when it was last asked for: the broker closes the channel in the middle of the batch.
    passed = publisher.run()
    assert passed.published == 1
    assert "NOT_FOUND - no exchange" in passed.failed[0]
    assert states() == {**dict.fromkeys("abcdg", "PUBLISHED"), "e": "FAILED", "f": "WAITING"}
    assert set(queue.event_ids()) == set("abcdg")


def test_what_the_broker_closes_the_channel_on_fails_alone(queue, publisher):
    """An exchange of the broker's own is there, and takes nothing."""
    for number in range(5):
        send(f"a{number}", queue=queue.name)
        send(f"b{number}", queue="q", exchange="amq.rabbitmq.trace" if number == 2 else "", key="b")
    OutboxMessage.objects.filter(event_id__in=["b0", "b1", "b3", "b4"]).update(routing_key=queue.name)
    passed = publisher.run()
    assert passed.published == 7
    assert len(passed.failed) == 1, passed
    assert states()["b2"] == "FAILED"
    assert states()["b3"] == "WAITING"
    assert set(queue.event_ids()) == {*(f"a{number}" for number in range(5)), "b0", "b1"}


def test_what_the_broker_refuses_fails_and_holds_its_key(declare, publisher):
    queue = declare({"x-max-length": 1, "x-overflow": "reject-publish"})
    send("a", "b", "c", queue=queue.name, key="k")
    passed = publisher.run()
    assert (passed.published, len(passed.failed)) == (1, 1)
    assert "basic.nack" in passed.failed[0]
    assert states() == {"a": "PUBLISHED", "b": "FAILED", "c": "WAITING"}
    assert queue.event_ids() == ["a"]
    let_pause_pass()
    publisher.run()
    assert queue.event_ids() == ["b"]


def test_a_connection_that_is_cut_in_a_batch_loses_nothing_and_breaks_no_order(
    cable, queue, publisher, monkeypatch
):
    for number in range(40):
        send(number, queue=queue.name, key=f"key-{number % 4}")
    sent = []
    send_one = confirming.Flight.send

    def send_and_cut(self, channel, row, following):
        send_one(self, channel, row, following)
        sent.append(row)
        if len(sent) in (7, 30):
            cable.cut()
            cable.mend()

    monkeypatch.setattr(confirming.Flight, "send", send_and_cut)
    lost = [publisher.run().away for _ in range(2)]
    assert all(away.keys() == {"default"} for away in lost)
    assert "WAITING" in states().values()
    publisher.outages.clear()
    wait_until(lambda: publisher.run() and set(states().values()) == {"PUBLISHED"})
    first = list(dict.fromkeys(map(int, queue.event_ids())))
    assert sorted(first) == list(range(40))
    for key in range(4):
        of_key = [number for number in first if number % 4 == key]
        assert of_key == sorted(of_key)


def test_a_broker_that_confirms_nothing_is_given_up_and_what_was_sent_waits_on(cable, queue, publisher):
    publisher.confirm_timeout = 0.2
    send("a", queue=queue.name)
    assert publisher.run().published == 1
    cable.clog()
    send("b", "c", queue=queue.name)
    passed = publisher.run()
    assert (passed.published, passed.failed) == (0, [])
    assert passed.away
    assert states() == {"a": "PUBLISHED", "b": "WAITING", "c": "WAITING"}
    assert publisher.links == {}
    cable.cut()
    cable.mend()
    assert publisher.run().published == 2


def test_a_wrong_password_is_an_outage(settings, queue, publisher):
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "amqp://guest:wrong@127.0.0.1:5672//"}}
    send("a", queue=queue.name)
    assert "ACCESS_REFUSED" in publisher.run().away["default"]
    assert states() == {"a": "WAITING"}


def test_confirms_of_several_at_once_are_told_apart(queue):
    """RabbitMQ chooses when to confirm several with one answer."""
    outcome = Outcome()
    flight = confirming.Flight([], outcome, 1)
    rows = [type("Row", (), {"id": number})() for number in range(6)]
    flight.in_flight = {number + 1: (row, ()) for number, row in enumerate(rows)}
    flight.returned = {1: "nowhere"}
    flight.note_ack(2, True)
    flight.note_ack(4, False)
    flight.note_nack(5, True)
    assert outcome.confirmed == [0, 3]
    assert sorted(outcome.failed) == [1, 2, 4]
    assert list(flight.in_flight) == [6]


def test_consumers_option_of_waiting_for_each_confirm_does_not_slow_batches(settings, queue):
    options = {"URL": settings.IDEMPOTENCY_BROKERS["default"]["URL"]}
    settings.IDEMPOTENCY_BROKERS = {"default": {**options, "TRANSPORT_OPTIONS": {"confirm_publish": True}}}
    link = connected("default", 1)
    assert not link.amqp.confirm_publish
    link.close()
