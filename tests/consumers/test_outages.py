"""Workers that are told to end, and brokers and databases that are away for a while."""

from __future__ import annotations

import signal

import pytest
from django.db import connection

from idempotency.models import FailedMessage, InboxMessage
from tests import services
from tests.conftest import State, beside_postgresql
from tests.consumers.conftest import events, ids
from tests.processes.cable import Cable
from tests.processes.messaging import wait_until
from tests.project.models import Order

pytestmark = [
    pytest.mark.crash,
    pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]),
    beside_postgresql,
]


@pytest.fixture
def cable():
    with Cable(services.rabbitmq.port) as cable:
        yield cable


def through(cable):
    return {"BROKER_URL": f"amqp://guest:guest@127.0.0.1:{cable.port}//"}


def done():
    return InboxMessage.objects.filter(state=State.COMPLETED).count()


def at_the_gate(gate, number=1):
    return events(number, gate=gate.listener.getsockname()[1])


def test_a_worker_that_is_to_end_finishes_what_it_has_begun_and_gives_back_the_rest(queues, workers, gate):
    queues.publish("orders.place", *at_the_gate(gate), *events(5))
    worker = workers("orders.place")
    worker.start()
    gate.wait_for()
    wait_until(lambda: queues.left("orders.place") == 0)
    worker.signal(signal.SIGTERM)
    gate.release()
    assert worker.wait() == 0
    assert Order.objects.count() == 1
    assert queues.left_in_all("orders.place") == 5


def test_it_ends_also_when_the_broker_has_gone_away_meanwhile(queues, workers, gate, cable):
    queues.publish("orders.place", *at_the_gate(gate))
    worker = workers("orders.place", **through(cable))
    worker.start()
    gate.wait_for()
    cable.cut()
    worker.signal(signal.SIGTERM)
    gate.release()
    assert worker.wait() == 0
    assert Order.objects.count() == 1


@pytest.mark.parametrize("accident", ["cut", "clog"])
def test_it_ends_also_when_it_has_lost_its_broker(accident, queues, workers, cable):
    queues.publish("orders.place", *events(1))
    worker = workers("orders.place", **through(cable))
    worker.start()
    wait_until(lambda: Order.objects.exists())
    getattr(cable, accident)()
    if accident == "cut":
        wait_until(lambda: b"the broker is away" in worker.processes[0][1].read_bytes())
    assert worker.stop() == [0]


def test_what_was_handled_while_the_broker_was_away_is_not_handled_when_it_comes_again(
    queues, workers, gate, cable, diary
):
    queues.publish("orders.place", *at_the_gate(gate))
    worker = workers("orders.place", DIARY=diary.path, **through(cable))
    worker.start()
    gate.wait_for()
    cable.cut()
    cable.mend()
    wait_until(lambda: queues.left("orders.place") == 1)
    gate.release()
    wait_until(lambda: diary("seen") == 2 and queues.left("orders.place") == 0)
    assert worker.stop() == [0]
    assert (Order.objects.count(), diary("run"), queues.left_in_all("orders.place")) == (1, 1, 0)
    assert not FailedMessage.objects.exists()


def end_other_sessions():
    """All that are on this database: the workers'."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0]


@pytest.mark.parametrize("name", ["orders.place", "sms.again", "sms.asked"])
def test_a_database_session_that_ends_under_a_handler_costs_no_attempt(
    name, queues, workers, gate, gateway, diary
):
    sent = at_the_gate(gate)
    queues.publish(name, *sent)
    worker = workers(name, DIARY=diary.path, SERVED_LEASE="1", CONSUMER_OPTIONS='{"MAX_ATTEMPTS": 1}')
    worker.start()
    gate.wait_for()
    end_other_sessions()
    gate.listener.close()
    gate.release()
    wait_until(lambda: done() == 1)
    assert worker.stop() == [0]
    assert diary("run") == 2
    assert (queues.left(name), queues.left(f"{name}.dead")) == (0, None)
    assert not FailedMessage.objects.exists()
    if name != "orders.place":
        assert gateway.sent().count(*ids(sent)) == 1


def test_a_database_that_refuses_connections_for_a_while_costs_no_attempt(queues, workers, diary):
    before, meanwhile = events(1), events(5)
    with Cable(services.postgresql.port) as cable:
        worker = workers(
            "orders.place",
            DIARY=diary.path,
            DATABASE_PORT=str(cable.port),
            CONSUMER_OPTIONS='{"MAX_ATTEMPTS": 1, "PREFETCH": 2}',
        )
        queues.publish("orders.place", *before)
        worker.start()
        wait_until(lambda: done() == 1)
        cable.cut()
        queues.publish("orders.place", *meanwhile)
        wait_until(lambda: diary("seen") >= 1 + 5)
        assert diary("run") == 1
        cable.mend()
        wait_until(lambda: done() == 6)
        assert worker.stop() == [0]
    assert diary("run") == 6
    assert (queues.left("orders.place"), queues.left("orders.place.dead")) == (0, None)
    assert not FailedMessage.objects.exists()


def test_dead_letters_cannot_be_sent_again_while_the_broker_is_away(workers, cable):
    cable.cut()
    worker = workers("orders.place", **through(cable))
    worker.begin(1, "--send-dead-letters-again")
    log = worker.processes[0][1]
    assert worker.wait() == 1
    said = "CommandError: Not all dead letters of orders.place were sent again (ConnectionRefusedError"
    assert said in log.read_text()
