"""Messages that fail, for a while or for ever, and what becomes of the others meanwhile."""

from __future__ import annotations

import json
import pickle
import zlib

import amqp
import pytest

from idempotency.consumers import dead_letters
from idempotency.consumers.dead_letters import CONSUMER, REASON, DeadLetters
from idempotency.models import FailedMessage, InboxMessage
from tests.conftest import beside_postgresql
from tests.consumers.conftest import events, ids
from tests.processes.messaging import wait_until
from tests.project.models import Order

pytestmark = [
    pytest.mark.crash,
    pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]),
    beside_postgresql,
]
FOR_EVER = 1000


def options(**consumer):
    return {"CONSUMER_OPTIONS": json.dumps(consumer)}


def dead_ids():
    rows = FailedMessage.objects.filter(dead_at__isnull=False)
    return set(rows.values_list("key", flat=True))


def orders():
    return sorted(Order.objects.values_list("reference", flat=True))


def runs(diary, event):
    return diary.read_text().split("\n").count(f"run {event}")


def test_what_fails_twice_is_run_a_third_time_and_leaves_no_failure(queues, workers, tmp_path):
    (event,) = sent = events(1, fails=2)
    queues.publish("orders.place", *sent)
    worker = workers("orders.place", DIARY=str(tmp_path / "diary"))
    worker.start()
    wait_until(lambda: InboxMessage.objects.exists())
    assert worker.stop() == [0]
    assert orders() == sorted(ids(sent))
    assert runs(tmp_path / "diary", event[0]["event_id"]) == 3
    assert not FailedMessage.objects.exists()
    assert (queues.left("orders.place"), queues.dead("orders.place")) == (0, [])


def test_more_poison_than_is_handed_out_at_once_neither_stops_the_others_nor_is_lost(
    queues, workers, tmp_path
):
    poison, good = events(7, fails=FOR_EVER), events(3)
    queues.publish("orders.place", *poison, *good)
    diary = tmp_path / "diary"
    worker = workers(
        "orders.place", DIARY=str(diary), LONGEST_PAUSE="2", **options(PREFETCH=3, MAX_ATTEMPTS=2)
    )
    worker.start()
    wait_until(lambda: Order.objects.count() == 3)
    assert not dead_ids(), "the others have waited for it"
    wait_until(lambda: queues.left("orders.place.dead") == 7)
    assert worker.stop() == [0]
    dead = queues.dead("orders.place")
    assert {message.headers["event_id"] for message in dead} == dead_ids() == ids(poison)
    assert {runs(diary, event) for event in ids(poison)} == {2}
    for message in dead:
        assert message.headers[REASON].startswith("It failed 2 times, at last with Refused: ")
        assert message.headers[CONSUMER] == "orders.place"
        assert message.properties["delivery_mode"] == 2
    for failed in FailedMessage.objects.all():
        assert failed.attempts == 2
        assert failed.last_error.startswith("It failed 2 times, at last with Refused: ")
    assert (queues.left("orders.place"), orders()) == (0, sorted(ids(good)))


@pytest.mark.parametrize("name", ["orders.place", "sms.again"])
def test_a_message_that_takes_its_worker_with_it_each_time_is_given_up(name, queues, workers, tmp_path):
    killer = events(1, kills=True)
    queues.publish(name, *killer)
    diary = tmp_path / "diary"
    worker = workers(name, DIARY=str(diary), SERVED_LEASE="1", **options(MAX_ATTEMPTS=2))
    for _ in range(3):
        worker.begin()
        assert worker.wait() == -9
    worker.start()
    wait_until(lambda: queues.left(f"{name}.dead") == 1)
    assert worker.stop() == [0]
    assert dead_ids() == ids(killer)
    (message,) = queues.dead(name)
    # The first time nobody knew.
    assert message.headers[REASON] == "It was begun 2 times, and did not end."
    assert runs(diary, *ids(killer)) == 3
    assert not orders()


def raw(body, content_type="application/json", **headers):
    return headers, body, {"content_type": content_type, "content_encoding": "utf-8"}


UNREADABLE = {
    "no id": (raw(b"{}"), "The message has no business id for orders.place (KeyError: 'event_id')."),
    "no text": (raw(b"{", event_id="a"), "It cannot be read: DecodeError: "),
    "pickle": (
        raw(pickle.dumps({}), "application/x-python-serialize", event_id="a"),
        "It cannot be read: ContentDisallowed: ",
    ),
    "not compressed": (
        raw(b"\xff", event_id="a", compression="application/x-gzip"),
        "It cannot be read: error: ",
    ),
    "compressed in no known way": (
        raw(b"{}", event_id="a", compression="application/x-none"),
        "It cannot be read: KeyError: ",
    ),
}


@pytest.mark.parametrize("message", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_put_aside_at_once_as_it_came(message, queues, workers):
    (headers, body, properties), reason = message
    good = events(1)
    queues.publish("orders.place", (headers, body, properties), *good)
    worker = workers("orders.place")
    worker.start()
    wait_until(lambda: Order.objects.exists() and queues.left("orders.place.dead") == 1)
    assert worker.stop() == [0]
    (dead,) = queues.dead("orders.place")
    assert dead.headers.pop(REASON).startswith(reason)
    assert dead.headers.pop(CONSUMER) == "orders.place"
    assert (dead.headers, dead.content_type) == (headers, properties["content_type"])
    # amqp decodes what it can.
    assert (dead.body.encode() if isinstance(dead.body, str) else dead.body) == body
    assert dead_ids() == ({headers["event_id"]} if headers.get("event_id") else set())


def test_dead_letters_that_are_sent_again_are_tried_as_often_as_at_first(queues, workers, tmp_path):
    compressed = {"event_id": "a", "compression": "application/x-gzip"}
    body = zlib.compress(json.dumps({"fails": FOR_EVER}).encode())
    properties = {**raw(b"")[-1], "timestamp": 1234567890, "correlation_id": "c", "priority": 1}
    queues.publish("orders.place", (compressed, body, properties))
    diary = tmp_path / "diary"
    worker = workers("orders.place", DIARY=str(diary), **options(MAX_ATTEMPTS=2))
    worker.start()
    for time in (1, 2):
        wait_until(lambda: queues.left("orders.place.dead") == 1 and queues.left("orders.place") == 0)
        assert worker.stop() == [0]
        assert runs(diary, "a") == 2 * time
        worker.start(1, "--send-dead-letters-again")
    wait_until(lambda: runs(diary, "a") == 6 and queues.left("orders.place.dead") == 1)
    assert worker.stop() == [0]
    (message,) = queues.dead("orders.place")
    assert json.loads(message.body) == {"fails": FOR_EVER}
    kept = {name: message.properties.get(name) for name in ("timestamp", "correlation_id", "priority")}
    assert kept == {"timestamp": 1234567890, "correlation_id": "c", "priority": 1}


def test_a_dead_letter_that_is_sent_again_and_comes_back_unhandled_has_its_attempts_too(
    queues, workers, tmp_path, settings
):
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": queues.url}}
    sent = events(1, fails=FOR_EVER)
    queues.publish("orders.place", *sent)
    diary = tmp_path / "diary"
    worker = workers("orders.place", DIARY=str(diary), **options(MAX_ATTEMPTS=2))
    worker.start()
    wait_until(lambda: queues.left("orders.place.dead") == 1)
    assert worker.stop() == [0]
    again = DeadLetters("default")
    assert again.send_again(queues.named("orders.place")) == 1
    again.close()
    with queues.channel() as channel:  # and never says what became of it
        assert channel.basic_get(queues.named("orders.place"))
    worker.start()
    wait_until(lambda: runs(diary, *ids(sent)) == 4 and queues.left("orders.place.dead") == 1)
    assert worker.stop() == [0]


def test_what_nobody_takes_as_a_dead_letter_is_held_until_somebody_does(queues, workers):
    full = {"x-max-length": 0, "x-overflow": "reject-publish"}
    queues.declare("orders.place.dead", queue_arguments=full)
    poison, good = events(1, fails=FOR_EVER), events(3)
    queues.publish("orders.place", *poison, *good)
    worker = workers("orders.place", **options(MAX_ATTEMPTS=1))
    worker.start()
    wait_until(lambda: Order.objects.count() == 3 and dead_ids() == ids(poison))
    assert worker.stop() == [0]
    assert queues.left("orders.place") == 1
    with queues.channel() as channel:
        channel.queue_delete(queues.named("orders.place.dead"))
    worker.start()
    wait_until(lambda: queues.left("orders.place.dead") == 1)
    assert worker.stop() == [0]
    (message,) = queues.dead("orders.place")
    # Not what became of its redelivery.
    assert message.headers[REASON].startswith("It failed 1 times, at last with Refused: ")


def test_a_dead_letter_of_no_type_keeps_its_body(queues, workers):
    queue = queues.declare("orders.place")
    with queues.channel() as channel:
        channel.basic_publish(amqp.Message(b"text", application_headers={"event_id": "a"}), routing_key=queue)
    worker = workers("orders.place", **options(MAX_ATTEMPTS=1))
    worker.start()
    wait_until(lambda: queues.left("orders.place.dead") == 1)
    assert worker.stop() == [0]
    (message,) = queues.dead("orders.place")
    # As its handler was given it.
    assert message.payload == "text"


def test_what_no_queue_takes_as_a_dead_letter_is_not_taken_for_put_aside(queues, settings, monkeypatch):
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": queues.url}}
    queues.publish("orders.place", *events(1))
    (message,) = queues.taken("orders.place")
    # As if its queue were deleted right after it was looked for.
    monkeypatch.setattr(dead_letters, "declare_queue", lambda *args: None)
    aside = DeadLetters("default")
    with pytest.raises(aside.errors):
        aside.put_aside(message, queues.named("orders.place"), "orders.place", "It failed.")
    aside.close()
