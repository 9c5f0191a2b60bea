"""Celery's workers on real brokers: messages that fail, that kill, that come twice."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter

import pytest
from celery import chain, chord, states

from idempotency.consumers.celery import send_again
from idempotency.exceptions import GivenUp
from idempotency.models import FailedMessage, InboxMessage
from tests.conftest import available, beside_postgresql
from tests.processes.cable import Cable
from tests.processes.celery_storm import KINDS, settled, storm
from tests.processes.celery_workers import Broker, CeleryWorkers
from tests.processes.messaging import all_closed, wait_until
from tests.project import tasks
from tests.project.models import Order
from tests.services import SERVICES

pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]), beside_postgresql]
WAIT = 20
POOLS = ["solo", "threads"]
on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True, scope="module")
on_redis = pytest.mark.parametrize("broker", ["redis"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=["rabbitmq", "redis"])
def broker(request):
    available("redis")
    broker = Broker(available(request.param))
    yield broker
    broker.close()


@pytest.fixture(scope="module")
def cable(broker):
    """What the workers send through."""
    with Cable(SERVICES[broker.name].port) as cable:
        yield cable


@pytest.fixture(scope="module")
def workers(broker, cable, django_db_setup, started_gateway, tmp_path_factory):
    """For all tests, since one takes longer to start than they do."""
    log = tmp_path_factory.mktemp("celery") / "log"
    options = {
        "SMS_GATEWAY_URL": started_gateway.url,
        "SERVED_LEASE": "1",
        "TASK_WRITE_PORT": str(cable.port),
    }
    worker = CeleryWorkers(log, broker, "--pool=prefork", "--concurrency=3", **options)
    worker.start()
    yield worker
    worker.close()
    print(log.read_text()[-50000:])


@pytest.fixture
def served(workers, broker):
    """The broker, with workers on it."""
    return broker


@pytest.fixture
def event():
    return uuid.uuid4().hex


@on_rabbitmq
def test_a_duplicate_gives_the_first_ones_result(served, event):
    first, duplicate = [served.send("tasks.place", event) for _ in range(2)]
    assert first.get(timeout=WAIT) == duplicate.get(timeout=WAIT) == Order.objects.get().pk


def test_duplicates_wait_for_those_that_are_at_work_for_longer_than_their_lease(served, event):
    """And, on Redis, than what was handed out is hidden."""
    results = [served.send(task, event, seconds=1.5) for task in ("tasks.patient", "tasks.once") * 2]
    wait_until(lambda: states.RETRY in [result.state for result in results])
    order, sms, *duplicates = [result.get(timeout=WAIT) for result in results]
    assert [order, sms] == duplicates == [Order.objects.get().pk, event]
    wait_until(lambda: served.left() == 0)
    assert not FailedMessage.objects.filter(key=event).exists()


@on_rabbitmq
def test_what_fails_is_run_again_until_it_succeeds(served, event):
    result = served.send("tasks.place", event, fails=1)
    assert result.get(timeout=WAIT) == Order.objects.get().pk
    assert not FailedMessage.objects.filter(key=event).exists()


@on_rabbitmq
def test_a_task_that_asks_to_be_run_again_is_rolled_back_and_run_again(served, event):
    assert served.send("tasks.asking", event).get(timeout=WAIT) == 1
    assert Order.objects.count() == 1
    assert not FailedMessage.objects.filter(key=event).exists()


@on_redis
def test_messages_that_fail_or_kill_or_hang_each_time_are_given_up_with_their_arguments(served):
    """At once, since each takes its time."""
    refused = served.send("tasks.place", "refused", fails=100)
    killing = served.send("tasks.kill", "killing")
    hanging = served.app.tasks["tasks.limited"].apply_async(["hanging"], {"seconds": 60}, time_limit=0.3)
    slow = served.app.tasks["tasks.limited"].apply_async(["slow"], {"seconds": 60}, soft_time_limit=0.3)
    # Celery itself calls each time that it was ended by a limit a failure.
    wait_until(lambda: FailedMessage.objects.filter(dead_at__isnull=False).count() == 4)
    wait_until(lambda: {each.state for each in (refused, killing, hanging, slow)} == {states.FAILURE})
    with pytest.raises(tasks.Refused):
        refused.get()
    with pytest.raises(GivenUp, match="begun 2 times"):
        killing.get()
    failed = {each.key: each for each in FailedMessage.objects.all()}
    assert "Refused" in failed["refused"].last_error
    assert failed["refused"].attempts == tasks.MAX_ATTEMPTS
    assert "begun 2 times" in failed["hanging"].last_error
    kept = json.loads(failed["hanging"].message)
    assert (kept["task"], kept["args"], kept["kwargs"]) == ("tasks.limited", ["hanging"], {"seconds": 60})
    wait_until(lambda: served.left() == 0)


@on_rabbitmq
def test_what_was_given_up_is_sent_again_by_an_operator(served, event):
    with pytest.raises(tasks.Refused):
        served.send("tasks.once_refused", event).get(timeout=WAIT)
    InboxMessage.objects.all().delete()  # as who knows that nothing was sent
    Order.objects.create(reference=event)
    send_again(FailedMessage.objects.get(), app=served.app)
    wait_until(lambda: InboxMessage.objects.filter(state=InboxMessage.State.COMPLETED).exists())
    assert not FailedMessage.objects.filter(key=event).exists()


@on_rabbitmq
def test_a_message_is_not_lost_when_its_successor_cannot_be_sent(served, cable, event):
    cable.cut()
    first, duplicate = [served.send("tasks.patient", event, seconds=1) for _ in range(2)]
    wait_until(lambda: Order.objects.exists())
    cable.mend()
    assert first.get(timeout=WAIT) == duplicate.get(timeout=WAIT) == Order.objects.get().pk


@on_rabbitmq
def test_chains_and_chords_go_on_after_duplicates(served, event):
    place, total = served.app.tasks["tasks.place"], served.app.tasks["tasks.total"]
    results = [chain(place.s(event), total.si([1, 2])).apply_async() for _ in range(2)]
    assert [result.get(timeout=WAIT) for result in results] == [3, 3]
    both = chord([place.s(event), place.s(event)], total.s()).apply_async()
    assert both.get(timeout=WAIT) == 2 * Order.objects.get().pk


@pytest.mark.crash
@pytest.mark.parametrize(
    ("number", "at_once", "kills"), [(40, 1, 3), pytest.param(500, 2, 120, marks=pytest.mark.soak)]
)
def test_killed_workers_lose_nothing_and_double_nothing(workers, gateway, number, at_once, kills):
    workers.supervise()
    workers.start(at_once - len(workers.processes))
    events = storm(workers, number, kills, random.Random(number))
    done, dead = settled()
    orders, again, once = [[(task, event) for event in events[task]] for task in KINDS]
    written = Order.objects.values_list("reference", flat=True)
    sent = Counter(gateway.sent())
    # Exactly once in the database.
    assert Counter(written) == dict.fromkeys(events["tasks.patient"], 1)
    # The gateway was asked with the same key each time.
    assert {sent[event] for _, event in again} == {1}
    assert done >= {*orders, *again}
    assert max(sent[event] for _, event in once) == 1
    assert all(sent[event] for task, event in done if task == "tasks.once")
    # Each is done, or of an outcome that nobody knows, and listed.
    assert done | dead == {*orders, *again, *once}
    assert not done & dead


@on_redis
@pytest.mark.soak
def test_copies_of_a_message_do_not_multiply_while_it_is_at_work(workers, served, event):
    workers.start(1)
    result = served.send("tasks.patient", event, seconds=16)
    # So that copies wait for a free process for longer than they are hidden.
    others = [served.send("tasks.patient", f"{event}-{number}", seconds=5) for number in range(6)]
    most = 0
    while not result.ready():
        most = max(most, served.left())
    assert [each.get(timeout=60) for each in others]
    assert most < 15
    wait_until(lambda: served.left() == 0, 60)


@pytest.mark.soak
def test_leases_are_renewed_in_every_pool(gateway, event, tmp_path):
    broker = Broker(available("rabbitmq"))
    pools = [CeleryWorkers(tmp_path / pool, broker, f"--pool={pool}", SERVED_LEASE="1") for pool in POOLS]
    with all_closed(broker, *pools):
        for each in pools:
            each.start()
        wait_until(lambda: all("ready." in each.log.read_text() for each in pools))
        # Longer than their lease, each twice.
        results = [broker.send("tasks.once", f"{event}-{n % 3}", seconds=2.5) for n in range(6)]
        assert {result.get(timeout=60) for result in results} == {f"{event}-{n}" for n in range(3)}
        assert all("succeeded" in each.log.read_text() for each in pools)
    assert not FailedMessage.objects.filter(key=event).exists()
