"""Workers on a real broker: what they do with messages that come once, twice or too early."""

from __future__ import annotations

import json
import subprocess
import sys

import kombu
import pytest

from idempotency.models import FailedMessage, InboxMessage, ParkedEvent
from tests.conftest import State, beside_postgresql
from tests.consumers.conftest import events, ids
from tests.processes import ROOT, environment
from tests.processes.gates import STUCK
from tests.processes.messaging import wait_until
from tests.project.models import Order, ParkingParcel

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]), beside_postgresql]


def test_each_message_is_handled_and_acknowledged(queues, workers):
    sent = events(20)
    queues.publish("orders.place", *sent, *sent[:5])
    worker = workers("orders.place")
    worker.start(2)
    wait_until(lambda: InboxMessage.objects.count() == 20)
    wait_until(lambda: queues.left("orders.place") == 0)
    assert worker.stop() == [0, 0]
    # What was handed out to a worker that was to end, it has given back: second copies at most.
    copies = {headers["event_id"] for headers, _ in sent[:5]}
    assert {message.headers["event_id"] for message in queues.taken("orders.place")} <= copies
    assert Order.objects.count() == 20
    assert not FailedMessage.objects.exists()


def test_one_worker_has_several_consumers_each_of_which_knows_its_own_messages(queues, workers, gateway):
    sent = events(5)
    for name in ("orders.place", "sms.again"):
        queues.publish(name, *sent)
    worker = workers("orders.place", "sms.again")
    worker.start()
    wait_until(lambda: InboxMessage.objects.filter(state=State.COMPLETED).count() == 10)
    assert worker.stop() == [0]
    assert set(Order.objects.values_list("reference", flat=True)) == ids(sent)
    assert set(gateway.sent()) >= ids(sent)


@pytest.mark.parametrize("arguments", [{"x-queue-type": "quorum"}, {"x-max-priority": 3}], ids=str)
def test_a_queue_is_made_as_the_consumers_options_say(arguments, queues, workers):
    queues.names |= {queues.named("orders.place"), queues.named("orders.place.dead")}
    worker = workers("orders.place", CONSUMER_OPTIONS=json.dumps({"QUEUE_ARGUMENTS": arguments}))
    worker.start()
    wait_until(lambda: queues.left("orders.place") == 0)
    # RabbitMQ refuses to declare it in any other way.
    queues.declare("orders.place", queue_arguments=arguments)
    queues.publish("orders.place", *events(3))
    wait_until(lambda: Order.objects.count() == 3)
    assert worker.stop() == [0]
    assert queues.left("orders.place") == 0


def test_a_queue_that_is_there_is_used_as_it_is(queues, workers):
    queues.declare("orders.place", queue_arguments={"x-max-length": 100})
    queues.publish("orders.place", *events(3))
    worker = workers("orders.place")
    worker.start()
    wait_until(lambda: Order.objects.count() == 3)
    assert worker.stop() == [0]


def test_a_queue_is_bound_to_an_exchange_by_its_routing_keys(queues, workers):
    exchange = kombu.Exchange(queues.named("shop"), "topic", durable=True)
    queues.names |= {queues.named("orders.place"), queues.named("orders.place.dead")}
    options = {"EXCHANGE": exchange.name, "ROUTING_KEYS": ["order.paid", "order.sent"]}
    with queues.channel(confirm_publish=True) as channel:
        exchange(channel).declare()
        worker = workers("orders.place", CONSUMER_OPTIONS=json.dumps(options))
        worker.start()
        wait_until(lambda: queues.left("orders.place") == 0)
        producer = kombu.Producer(channel, exchange)
        for routing_key in ("order.paid", "order.sent", "order.lost"):
            producer.publish({}, routing_key=routing_key, headers={"event_id": routing_key})
        wait_until(lambda: Order.objects.count() >= 2)
        assert worker.stop() == [0]
        exchange(channel).delete()
    assert set(Order.objects.values_list("reference", flat=True)) == {"order.paid", "order.sent"}


def test_an_event_that_comes_too_early_is_parked_and_applied_once(queues, workers):
    ParkingParcel.objects.create(reference="a")
    sent = [({"event_id": status}, {"parcel": "a", "status": status}) for status in ("sent", "packed")]
    queues.publish("parcels.move", sent[0], sent[0])
    worker = workers("parcels.move")
    worker.start()
    wait_until(lambda: ParkedEvent.objects.count() == 1 and queues.left("parcels.move") == 0)
    queues.publish("parcels.move", *sent, *sent)
    wait_until(lambda: InboxMessage.objects.count() == 2 and queues.left("parcels.move") == 0)
    assert worker.stop() == [0]
    assert ParkingParcel.objects.get().status == "sent"
    assert list(Order.objects.order_by("pk").values_list("owner", flat=True)) == ["packed", "sent"]
    assert not ParkedEvent.objects.exists()


def test_the_command_of_manage_py_ends_as_a_supervisor_asks_it_to(queues):
    queues.publish("orders.place", *events(1))
    process = subprocess.Popen(
        [sys.executable, "manage.py", "consume", "--skip-checks", "orders.place"],
        cwd=ROOT,
        env=environment(QUEUE_PREFIX=queues.prefix),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: Order.objects.count() == 1)
    process.terminate()
    told = process.communicate(timeout=STUCK)[0]
    assert process.returncode == 0
    assert told.splitlines()[-1] == "Stopped. What was not handled is with the broker."
