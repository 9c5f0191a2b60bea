"""A message that is delivered a second time, while somebody is still at work on the first."""

from __future__ import annotations

import json
import signal

import pytest

from idempotency.models import FailedMessage, InboxMessage
from tests.conftest import State, beside_postgresql
from tests.consumers.conftest import events
from tests.processes.messaging import wait_until
from tests.project.models import Order

pytestmark = [
    pytest.mark.crash,
    pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]),
    beside_postgresql,
]
LEASE = 1
SERVED = {"SERVED_LEASE": str(LEASE)}


@pytest.fixture
def twice(queues, workers, gate, diary):
    """``twice(name)``: two workers, a message, that the first has begun, and its second delivery."""

    def twice(name):
        (event,) = events(1, gate=gate.listener.getsockname()[1])
        # Else the first is handed the second delivery too.
        options = json.dumps({"PREFETCH": 1})
        worker = workers(name, DIARY=diary.path, CONSUMER_OPTIONS=options, **SERVED)
        queues.publish(name, event)
        worker.start()
        gate.wait_for()
        worker.start()
        queues.publish(name, event)
        wait_until(lambda: diary("seen") == 2)
        return worker, event[0]["event_id"]

    return twice


def done():
    return InboxMessage.objects.filter(state=State.COMPLETED).count()


def lease_is_renewed(times):
    """Return when that was seen."""
    seen = set()

    def look():
        seen.update(InboxMessage.objects.values_list("expires_at", flat=True))
        return len(seen) > times

    wait_until(look)


@pytest.mark.parametrize("name", ["sms.again", "sms.once"])
def test_who_is_slow_keeps_the_message_for_longer_than_a_lease(name, twice, gate, gateway, queues, diary):
    worker, event = twice(name)
    lease_is_renewed(times=3)  # a third of a lease between two
    assert gate.nobody_else
    # Held, and looked at when the lease was to be over: neither acknowledged nor handed round.
    assert diary("seen") <= 2 + 3
    assert queues.left(name) == 0
    gate.release()
    wait_until(lambda: done() == 1)
    assert worker.stop() == [0, 0]
    assert gateway.sent().count(event) == 1
    assert diary("run") == 1
    # Acknowledged as a duplicate, or given back.
    assert queues.left(name) <= 1
    assert not queues.dead(name)
    assert not FailedMessage.objects.exists()


def test_a_transaction_that_is_slow_keeps_its_message_too(twice, gate, queues, diary):
    worker, event = twice("orders.place")
    seen = diary("seen")
    wait_until(lambda: diary("seen") >= seen + 1)
    assert (gate.nobody_else, queues.left("orders.place")) == (True, 0)
    gate.release()
    wait_until(lambda: done() == 1)
    # Looked at once a second.
    seen = diary("seen")
    wait_until(lambda: diary("seen") > seen)
    assert worker.stop() == [0, 0]
    assert queues.left("orders.place") == 0, "the second was not acknowledged as a duplicate"
    assert Order.objects.get().reference == event
    assert diary("run") == 1
    assert diary("seen") < 10


@pytest.mark.parametrize("name", ["orders.place", "sms.again", "sms.asked"])
def test_when_the_first_dies_the_second_handles_what_it_holds(name, twice, gate, gateway, queues, diary):
    worker, event = twice(name)
    worker.kill(0)
    gate.wait_for()
    gate.listener.close()
    gate.release()
    wait_until(lambda: done() == 1)
    assert worker.stop() == [0]
    assert (gateway.sent().count(event), Order.objects.count()) == (
        (0, 1) if name == "orders.place" else (1, 0)
    )
    assert diary("run") == 2
    assert not FailedMessage.objects.filter(dead_at__isnull=False).exists()


def test_when_the_first_dies_what_may_have_been_done_is_not_done_again(twice, gate, gateway, queues, diary):
    worker, event = twice("sms.once")
    worker.kill(0)
    # Both deliveries: the first one's comes back.
    wait_until(lambda: queues.left("sms.once.dead") == 2)
    assert worker.stop() == [0]
    assert (InboxMessage.objects.get().state, gateway.sent().count(event)) == (State.UNKNOWN, 0)
    assert diary("run") == 1
    failed = FailedMessage.objects.get()
    assert failed.dead_at
    assert failed.last_error.startswith("Its worker died over it, and nobody can be asked what it did: ")


def test_who_was_halted_for_longer_than_its_lease_comes_too_late(twice, gate, gateway, queues, diary):
    worker, event = twice("sms.again")
    worker.signal(signal.SIGSTOP)
    gate.wait_for()
    worker.signal(signal.SIGCONT)
    gate.held.pop(0).close()
    wait_until(lambda: gateway.sent().count(event) == 1)
    seen = diary("seen")
    wait_until(lambda: done() or diary("seen") > seen)
    assert (InboxMessage.objects.get().state, InboxMessage.objects.get().fence) == (State.RUNNING, 2)
    gate.release()
    wait_until(lambda: done() == 1)
    assert worker.stop() == [0, 0]
    # Asked for twice, under one key.
    assert (gateway.sent().count(event), diary("run")) == (1, 2)
    assert not queues.dead("sms.again")
    assert not FailedMessage.objects.exists()


def test_who_was_halted_over_what_must_not_happen_twice_is_not_replaced(twice, gate, gateway, queues, diary):
    worker, event = twice("sms.once")
    worker.signal(signal.SIGSTOP)
    wait_until(lambda: queues.left("sms.once.dead") == 1)
    assert InboxMessage.objects.get().state == State.UNKNOWN
    gate.release()
    worker.signal(signal.SIGCONT)
    assert worker.stop() == [0, 0]
    assert (gateway.sent().count(event), diary("run")) == (1, 1)


def test_two_consumers_of_one_event_both_handle_it(queues, workers, diary):
    (event,) = events(1)
    for name in ("sms.asked", "sms.again"):
        queues.publish(name, event)
    worker = workers("sms.asked", "sms.again", DIARY=diary.path, **SERVED)
    worker.start()
    wait_until(lambda: done() == 2)
    assert worker.stop() == [0]
    assert diary("run") == 2
