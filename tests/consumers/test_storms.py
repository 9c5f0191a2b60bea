"""Consumers of each kind at once, while workers and broker are killed and connections are cut."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from idempotency.consumers.dead_letters import REASON
from idempotency.models import FailedMessage, InboxMessage
from tests import services
from tests.conftest import State, available, beside_postgresql
from tests.consumers.conftest import events, ids
from tests.processes.broker_storm import Storm, calm
from tests.processes.cable import Cable
from tests.processes.messaging import Queues
from tests.processes.rabbitmq_server import RabbitMQServer
from tests.project.models import Order

pytestmark = [
    pytest.mark.crash,
    pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]),
    beside_postgresql,
]
NAMES = ("orders.place", "sms.again", "sms.once", "sms.asked")


@pytest.fixture
def server():
    """A broker that may be killed."""
    available("rabbitmq")
    with RabbitMQServer() as server:
        yield server


def publish(queues, number, chance):
    """As many events to each, a third of them twice, which take some ms or some 100 ms."""
    published = {}
    for name in NAMES:
        sent = events(number)
        for _, payload in sent:
            payload["seconds"] = chance.choice([0.001, 0.003, 0.01, 0.01, chance.uniform(0.02, 0.2)])
        again = chance.sample(sent, number // 3)
        queues.publish(name, *chance.sample(sent + again, len(sent + again)))
        published[name] = ids(sent)
    return published


def known(name):
    return InboxMessage.objects.filter(operation=name)


def settled(number):
    return all(
        known(name).filter(state__in=(State.COMPLETED, State.UNKNOWN)).count() == number for name in NAMES
    )


def keys(name, state):
    return set(known(name).filter(state=state).values_list("key", flat=True))


def weather(queues, workers, gateway, server, number, lease, rounds, restarts=frozenset()):
    """Through a storm, and the calm after it; then the books are balanced. Only a server of the test's own
    may be restarted."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    published = publish(queues, number, random.Random(seed))
    with Cable(server.port) as cable:
        worker = workers(
            *NAMES,
            queues=queues,
            SERVED_LEASE=lease,
            BROKER_URL=f"amqp://guest:guest@127.0.0.1:{cable.port}//",
            # None is to be given up for dying with its worker so often.
            CONSUMER_OPTIONS=json.dumps({"MAX_ATTEMPTS": 1000}),
        )
        storm = Storm(worker, cable, server, seed)
        storm.rage(rounds, restarts, lambda: settled(number))
        calm(worker, queues, *NAMES)
    sent = Counter(gateway.sent())
    dead = {name: [message.headers for message in queues.dead(name)] for name in NAMES}
    assert_each_once(published, sent)
    assert_at_most_once(published["sms.once"], sent, dead.pop("sms.once"))
    assert not any(dead.values())
    print(f"kills {storm.kills}, cuts {storm.cuts}, unknown {len(keys('sms.once', State.UNKNOWN))}")
    return storm


def test_each_kind_keeps_its_promise_while_workers_are_killed_and_connections_cut(queues, workers, gateway):
    storm = weather(queues, workers, gateway, services.rabbitmq, number=60, lease="1", rounds=8)
    assert storm.kills + storm.cuts


@pytest.mark.soak
def test_each_kind_keeps_its_promise_while_the_broker_is_killed_and_stopped_too(server, workers, gateway):
    queues, restarts = Queues(server.url), {9, 30, 50, 70}
    storm = weather(queues, workers, gateway, server, 500, lease="2", rounds=500, restarts=restarts)
    assert storm.restarts == len(restarts)


def assert_each_once(published, sent):
    assert Counter(Order.objects.values_list("reference", flat=True)) == dict.fromkeys(
        published["orders.place"], 1
    )
    for name in ("sms.again", "sms.asked"):
        assert {reference: sent[reference] for reference in published[name]} == dict.fromkeys(
            published[name], 1
        )
    for name in ("orders.place", "sms.again", "sms.asked"):
        assert keys(name, State.COMPLETED) == published[name]


def assert_at_most_once(published, sent, dead):
    done, unknown = keys("sms.once", State.COMPLETED), keys("sms.once", State.UNKNOWN)
    assert done | unknown == published
    assert all(sent[reference] == 1 for reference in done)
    assert all(sent[reference] <= 1 for reference in unknown)
    assert {headers["event_id"] for headers in dead} == unknown
    assert all(headers[REASON] for headers in dead)
    failed = FailedMessage.objects.all()
    assert {message.key for message in failed} == unknown
    assert {(message.consumer, message.dead_at is not None) for message in failed} <= {("sms.once", True)}
