"""Publishers in processes of their own, beside each other, halted and killed; on RabbitMQ and PostgreSQL."""

from __future__ import annotations

import json
import signal

import pytest
from django.db import connection, transaction

from idempotency import outbox
from idempotency.models import OutboxMessage
from tests import services
from tests.conftest import beside_postgresql
from tests.outbox.conftest import State, send, states, wait_until
from tests.processes.commands import commands
from tests.processes.gates import STUCK
from tests.processes.programs import printed_by

pytestmark = [pytest.mark.django_db(transaction=True), beside_postgresql]
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.outbox.settings"}
MESSAGES, KEYS = 400, 20


@pytest.fixture
def start():
    """``start()``: the command in a loop, in a process of its own."""
    with commands("publish_outbox") as start:
        yield lambda *options, url=services.rabbitmq.url: start(
            *("--loop", "--interval", "0.01", *options), **SETTINGS, PUBLISHED_TO=url
        )


def assert_in_order(events):
    """Those of each key, which an event's id begins with."""
    for key in {event.partition(":")[0] for event in events}:
        of_key = [int(event.partition(":")[2]) for event in events if event.partition(":")[0] == key]
        assert of_key == sorted(of_key), key


def at_work():
    """How many sessions have asked for what waits."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE '%idempotency_outbox_message%' AND pid != pg_backend_pid()"
        )
        return cursor.fetchone()[0]


@pytest.mark.race
def test_several_publishers_publish_each_message_once_and_those_of_a_key_in_order(start, queue):
    publishers = [start("--batch-size", "7", "-v2") for _ in range(3)]
    wait_until(lambda: len(publishers) == at_work())
    sent = [f"{number % KEYS}:{number}" for number in range(MESSAGES)]
    for batch in range(0, MESSAGES, 10):
        with transaction.atomic():
            for event in sent[batch : batch + 10]:
                outbox.send({}, routing_key=queue.name, event_id=event, key=event.partition(":")[0])
        if batch == MESSAGES // 2:
            wait_until(lambda: OutboxMessage.objects.filter(state=State.PUBLISHED).count() > MESSAGES // 10)
            publishers[0].send_signal(signal.SIGTERM)
    wait_until(lambda: set(states().values()) == {"PUBLISHED"})
    for publisher in publishers[1:]:
        publisher.send_signal(signal.SIGTERM)
    for publisher in publishers:
        said, _ = publisher.communicate(timeout=STUCK)
        assert publisher.returncode == 0, said
    events = queue.event_ids()
    assert sorted(events) == sorted(sent)
    assert_in_order(events)


@pytest.mark.crash
def test_beside_one_that_is_halted_others_go_on_with_other_keys(start, queue, cable, settings, publisher):
    url = settings.IDEMPOTENCY_BROKERS["default"]["URL"]
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": services.rabbitmq.url}}
    halted = start(url=url)
    send("before:0", queue=queue.name)
    wait_until(lambda: states() == {"before:0": "PUBLISHED"})
    # It now waits for a confirm that does not come, with rows that it holds.
    cable.clog()
    send("a:1", "a:2", queue=queue.name, key="a")

    def is_held():
        with transaction.atomic():
            rows = OutboxMessage.objects.filter(event_id="a:1").select_for_update(skip_locked=True)
            return not list(rows)

    wait_until(is_held)
    halted.send_signal(signal.SIGSTOP)
    send("a:3", queue=queue.name, key="a")
    send("b:1", queue=queue.name, key="b")
    assert publisher.run().published == 1
    assert queue.event_ids() == ["before:0", "b:1"]
    halted.kill()
    published = 0

    def is_published():
        nonlocal published
        published += publisher.run().published
        return published == 3

    wait_until(is_published)
    assert queue.event_ids() == ["a:1", "a:2", "a:3"]


@pytest.mark.crash
def test_killed_on_any_line_no_event_is_lost_and_the_first_of_each_come_in_order():
    services.available("rabbitmq")
    told = json.loads(printed_by("publishing", "kill", **SETTINGS))
    files = {"outbox/publisher.py", "outbox/batches.py", "outbox/confirming.py"}
    assert {place.partition(":")[0] for place in told["places"]} >= files
    ended = told["crashes"]
    assert len([crash for crash in ended if crash["signal"] == signal.SIGKILL]) > len(ended) * 0.9
    for crash in ended:
        first = list(dict.fromkeys(crash["events"]))
        assert sorted(first) == told["sent"], crash
        assert_in_order(first)
        assert crash["left"] == 0, crash
    doubled = [crash for crash in ended if len(crash["events"]) > len(told["sent"])]
    # Between the confirm and the commit, and at no other time.
    assert 0 < len(doubled) < len(ended)
