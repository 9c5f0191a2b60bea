"""Handlers and messages that do what nobody should, and what must hold all the same."""

from __future__ import annotations

import functools
import signal
import time
from asyncio import CancelledError
from contextlib import suppress
from datetime import timedelta
from threading import Timer
from uuid import uuid4

import kombu
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.models import F
from kombu.transport import memory

from idempotency.consumers import dead_letters, handling, idempotent_consumer, registered
from idempotency.consumers.dead_letters import DeadLetters
from idempotency.consumers.handling import Delivery, Fate
from idempotency.consumers.worker import Worker
from idempotency.exceptions import OutcomeUnknown
from idempotency.models import FailedMessage, IdempotencyRecord, InboxMessage
from tests import services
from tests.conftest import available, let_lease_pass
from tests.consumers.test_consumers import KINDS, consumer, orders
from tests.processes.cable import Cable
from tests.processes.gates import STUCK

pytestmark = pytest.mark.django_db(transaction=True)
State = IdempotencyRecord.State


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def handle(event="e-1", name="tests", **options):
    """As a worker does."""
    return Delivery(registered(name), (event,), {}, **{"max_attempts": 2, **options}).handle()


class Mute(Exception):
    """Has no text."""

    def __str__(self):
        raise ZeroDivisionError


class Handler:
    def __call__(self, event):
        pass


def failing_with(error):
    def fail(event):
        raise error

    return fail


def test_an_exception_without_a_text_is_a_failure_like_any_other():
    consumer(work=failing_with(Mute()))
    assert handle().fate is Fate.LATER
    handled = handle(has_failed=True)
    assert (handled.fate, "Mute" in handled.reason) == (Fate.DEAD, True)


def test_of_an_enormous_error_only_so_much_is_kept_as_a_person_reads():
    consumer(work=failing_with(ValueError("x" * 20_000_000)))
    assert handle(max_attempts=1).fate is Fate.DEAD
    assert len(FailedMessage.objects.get().last_error) < 20_000


@pytest.mark.parametrize("error", [SystemExit(0), CancelledError(), GeneratorExit()], ids=repr)
def test_a_handler_that_ends_itself_ends_no_worker(error):
    consumer(work=failing_with(error))
    handled = handle(max_attempts=1, survives_exits=True)
    assert (handled.fate, repr(error)[:-2] in handled.reason) == (Fate.DEAD, True)
    assert orders() == []


def test_what_ends_the_process_passes():
    class Shutdown(SystemExit):
        pass

    for error in (Shutdown(), KeyboardInterrupt()):
        consumer(work=failing_with(error))
        with pytest.raises(type(error)):
            handle(survives_exits=True)


def test_a_failure_of_which_nobody_hears_again_goes_away():
    consumer(work=failing_with(ValueError()))
    assert handle().fate is Fate.LATER
    assert not FailedMessage.objects.forgettable()
    FailedMessage.objects.update(kept_until=F("kept_until") - timedelta(days=8))
    assert FailedMessage.objects.forgettable().count() == 1


def test_a_transaction_that_the_handler_leaves_open_is_a_failure_and_not_acknowledged(kind):
    blocks = []

    def leave_open(event):
        blocks.append(transaction.atomic())
        blocks[-1].__enter__()

    consumer(kind, work=leave_open)
    handled = handle()
    is_left_open, blocks[:] = connection.in_atomic_block, []
    if is_left_open:  # the tests after this one would be within it
        connection.close()
        connection.connect()
    assert (is_left_open, handled.fate) == (False, Fate.DEAD if kind == "at_most_once" else Fate.LATER)
    assert "atomic" in FailedMessage.objects.get().last_error
    assert orders() == []


def test_a_transaction_that_failed_and_whose_error_was_swallowed_is_not_acknowledged(kind):
    def swallow(event):
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")

    consumer(kind, work=swallow)
    is_kept = connection.vendor != "postgresql"
    assert (handle().fate is Fate.DONE, orders()) == (is_kept, ["e-1"] if is_kept else [])
    assert InboxMessage.objects.filter(state=State.COMPLETED).exists() == is_kept


@pytest.mark.parametrize("options", [{"not_done": [ValueError]}, {"not_done": "ValueError"}, {"not_done": 1}])
def test_not_done_takes_exceptions(options):
    with pytest.raises(TypeError, match="not_done"):
        idempotent_consumer("tests", key="event", delivery="at_most_once", **options)


@pytest.mark.parametrize("retention", [timedelta(0), timedelta(-1), "7d", 7])
def test_retention_is_a_positive_timedelta(retention):
    with pytest.raises(TypeError, match="retention"):
        idempotent_consumer("tests", key="event", delivery="transactional", retention=retention)


def test_a_coroutine_or_generator_that_nobody_runs_is_not_taken_for_handled():
    async def work(event):
        orders()

    consumer(work=lambda event: work(event))
    assert handle().fate is Fate.LATER
    consumer(work=lambda event: (n for n in range(1)))
    assert handle("e-2").fate is Fate.LATER
    assert orders() == []


@pytest.mark.parametrize("function", [Handler(), functools.partial(Handler.__call__, None)])
def test_any_callable_may_be_registered_twice(function):
    name = f"any.{type(function).__name__}"
    for _ in range(2):
        idempotent_consumer(name, key="event", delivery="transactional")(function)
    with pytest.raises(TypeError, match="two consumers"):
        consumer(name=name)


def test_a_database_that_is_away_when_the_id_is_asked_for_costs_no_message():
    def key(event):
        raise OperationalError("the server is away")

    consumer(key=key)
    assert handle().fate is Fate.LATER


def test_a_handler_that_closes_its_connection_is_given_up(kind):
    consumer(kind, work=lambda event: connection.close())
    fates = [handle(has_failed=bool(n)).fate for n in range(3)]
    assert fates[-1] is Fate.DEAD


def test_a_handler_that_calls_itself_is_given_up(kind):
    receive = consumer(kind, work=lambda event: receive(event))
    fates = [handle(has_failed=bool(n)).fate for n in range(3)]
    assert fates[-1] is Fate.DEAD


def leave_behind(kind, state=State.RUNNING):
    """What a killed worker of that kind leaves."""
    consumer(kind)
    guard = registered("tests").guard("e-1")
    guard.__enter__()
    guard._transaction.roll_back()
    guard._leave()
    let_lease_pass()
    assert IdempotencyRecord.objects.get().state == State.RUNNING


def test_a_transactional_consumer_does_not_run_what_a_dead_worker_under_a_lease_has_left():
    leave_behind("at_least_once")
    runs = []
    receive = consumer("transactional", work=runs.append)
    with pytest.raises(OutcomeUnknown):
        receive("e-1")
    assert runs == []


def test_a_consumer_that_asks_takes_up_what_another_kind_has_left():
    leave_behind("at_least_once")
    receive = consumer("at_most_once", reconcile=lambda event: False)
    receive("e-1")
    assert orders() == ["e-1"]


def test_a_consumer_that_asks_not_leaves_what_another_kind_has_left_for_decision():
    leave_behind("at_least_once")
    consumer("at_most_once")
    assert handle().fate is Fate.DEAD
    assert InboxMessage.objects.get().state == State.UNKNOWN


@pytest.fixture
def put(settings):
    """``put(queue, "a", "b")`` into this process's memory."""
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "memory://"}}

    def put(queue, *events, body=None):
        with kombu.Connection("memory://") as connection:
            for event in events:
                kombu.Producer(connection).publish(
                    body or {}, routing_key=queue, headers={"event_id": event}, declare=[kombu.Queue(queue)]
                )

    yield put
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()


def worker_of(*names):
    worker = Worker([registered(name) for name in names])
    worker.restart_limit = kombu.utils.limits.TokenBucket(100)
    # What it waits for may never come.
    ending = Timer(STUCK, worker.stop)
    ending.daemon = True
    ending.start()
    return worker


def of_messages(name, work, **options):
    consumer(
        options.pop("delivery", "transactional"), work, name, key=lambda m: m.headers["event_id"], **options
    )


def test_what_fails_more_slowly_than_it_is_due_again_keeps_no_other_waiting(put, settings, monkeypatch):
    monkeypatch.setattr(handling, "LONGEST_PAUSE", 0.001)
    settings.IDEMPOTENCY_CONSUMERS = {"poisoned": {"PREFETCH": 2, "MAX_ATTEMPTS": 1000}}
    runs = []

    def work(message):
        runs.append(message.headers["event_id"])
        if runs[-1] == "b" and runs.count("b") == 1:
            put("others", "good")
        time.sleep(0.01)
        if "good" in runs or len(runs) > 100:
            worker.stop()
        else:
            raise ValueError

    for name in ("poisoned", "others"):
        of_messages(name, work)
    put("poisoned", "a", "b")
    worker = worker_of("poisoned", "others")
    worker.run(safety_interval=0.01)
    assert 0 < runs.index("good") < 20


def test_a_handler_that_acknowledges_by_itself_does_not_end_its_worker(put):
    def work(message):
        message.ack()
        if message.headers["event_id"] == "e-2":
            worker.stop()

    of_messages("tests", work)
    put("tests", "e-1", "e-2")
    worker = worker_of("tests")
    worker.run(safety_interval=0.01)
    assert len(orders()) == 2


def test_a_handler_that_takes_its_message_to_pieces_gets_it_whole_the_next_time(put, monkeypatch):
    monkeypatch.setattr(handling, "LONGEST_PAUSE", 0.001)
    seen = []

    def work(message):
        seen.append((message.headers.pop("event_id"), message.payload.pop("order")))
        if len(seen) < 2:
            raise ValueError
        worker.stop()

    of_messages("tests", work)
    put("tests", "e-1", body={"order": 17})
    worker = worker_of("tests")
    worker.run(safety_interval=0.01)
    assert seen == [("e-1", 17)] * 2


@pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
def test_a_transaction_left_open_on_another_database_swallows_no_later_message(put):
    blocks = []

    def leave_open(message):
        blocks.append(transaction.atomic("elsewhere"))
        blocks[-1].__enter__()

    of_messages("careless", leave_open)
    of_messages("tests", lambda message: worker.stop(), using="elsewhere")
    put("careless", "e-1")
    worker = worker_of("careless", "tests")
    on_iteration = worker.on_iteration
    worker.on_iteration = lambda: (on_iteration(), blocks and put("tests", "e-2"))
    worker.run(safety_interval=0.01)
    assert not connections["elsewhere"].in_atomic_block
    assert InboxMessage.objects.using("elsewhere").exists()


def test_two_consumers_of_one_queue_are_refused(put, settings):
    settings.IDEMPOTENCY_CONSUMERS = {name: {"QUEUE": "q"} for name in ("tests", "others")}
    for name in ("tests", "others"):
        consumer(name=name)
    with pytest.raises(ValueError, match="one queue"):
        worker_of("tests", "others")


def test_a_broker_that_reads_nothing_any_more_keeps_no_worker_that_gives_up_a_message(settings, monkeypatch):
    available("rabbitmq")
    monkeypatch.setattr(dead_letters, "CONFIRM_SECONDS", 0.3)
    queue = f"attack-{uuid4().hex}"
    with Cable(services.rabbitmq.port) as cable:
        settings.IDEMPOTENCY_BROKERS = {"default": {"URL": f"amqp://guest:guest@127.0.0.1:{cable.port}//"}}
        letters = DeadLetters("default")
        message = kombu.Message(body=b"{}", headers={}, properties={}, content_type="application/json")
        letters.put_aside(message, queue, "tests", "why")
        cable.clog()
        with pytest.raises((OSError, kombu.exceptions.OperationalError)):
            letters.put_aside(message, queue, "tests", "why")
    with kombu.Connection(services.rabbitmq.url) as connection:
        connection.channel().queue_delete(f"{queue}.dead")


def test_dead_letters_that_cannot_be_sent_again_are_told_of(settings, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "amqp://guest:guest@127.0.0.1:1//"}}
    consumer()
    with pytest.raises(CommandError, match="where they were"):
        call_command("consume", "tests", "--send-dead-letters-again")


def test_a_worker_that_cannot_begin_says_why(settings, monkeypatch, caplog):
    available("rabbitmq")
    name = f"attack-{uuid4().hex}"
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": services.rabbitmq.url}}
    settings.IDEMPOTENCY_CONSUMERS = {"tests": {"QUEUE": name, "EXCHANGE": name, "ROUTING_KEYS": ["a"]}}
    consumer()
    worker = worker_of("tests")
    declare = worker._declare
    # One attempt will do.
    monkeypatch.setattr(worker, "_declare", lambda source: (worker.stop(), declare(source)))
    worker.run(safety_interval=0.01)
    with kombu.Connection(services.rabbitmq.url) as connection:
        connection.channel().queue_delete(name)
    # Not in kombu's own log, which nobody reads who has not asked for it.
    said = [record.getMessage() for record in caplog.records if record.name == "idempotency"]
    assert any(f"no exchange '{name}'" in line for line in said)
