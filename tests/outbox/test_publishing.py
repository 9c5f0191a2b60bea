"""What a publisher makes of rows: marking, failing, and the order of keys; on a broker in memory."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction
from kombu import Connection

from idempotency import outbox
from idempotency.database import DatabaseNow
from idempotency.models import OutboxMessage
from idempotency.outbox import batches
from idempotency.outbox.publisher import Publisher
from tests import services
from tests.conftest import in_a_thread, in_turn
from tests.outbox.conftest import State, delivered, event_ids, let_pause_pass, send, states
from tests.settings import VENDOR

pytestmark = pytest.mark.django_db(transaction=True)
has_row_locks = pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one lock for all rows")


def test_a_message_arrives_as_it_was_sent(publisher):
    with transaction.atomic():
        event_id = outbox.send({"order": 17}, routing_key="q", headers={"trace": ["a", 1, None]})
    assert publisher.run().published == 1
    (message,) = delivered()
    assert message.payload == {"order": 17}
    assert message.headers == {"trace": ["a", 1, None], "event_id": event_id}
    assert message.properties["message_id"] == event_id
    assert message.properties["delivery_mode"] == 2


def test_what_was_published_is_marked_and_not_published_again(publisher):
    send("a", "b")
    assert publisher.run().published == 2
    assert publisher.run().published == 0
    assert event_ids() == ["a", "b"]
    row = OutboxMessage.objects.first()
    assert (row.state, row.attempts, row.last_error) == (State.PUBLISHED, 0, "")
    assert row.kept_until - row.published_at >= timedelta(days=6, hours=23)


def test_everything_waits_for_its_batch_in_the_order_of_storing():
    send(*"abcdefg", key="k")
    publisher = Publisher("default", 2)
    assert publisher.run().published == 7
    assert event_ids() == list("abcdefg")


def test_one_that_fails_holds_those_of_its_key_and_no_others(publisher, refuse):
    send("a1", "a2", key="a")
    send("b1", "b2", key="b")
    send("c1", "c2")
    refuse("a1", "c1")
    passed = publisher.run()
    assert (passed.published, len(passed.failed)) == (3, 2)
    assert "LookupError: not that one" in passed.failed[0]
    assert sorted(event_ids()) == ["b1", "b2", "c2"]
    assert states() == {
        "a1": "FAILED",
        "a2": "WAITING",
        "b1": "PUBLISHED",
        "b2": "PUBLISHED",
        "c1": "FAILED",
        "c2": "PUBLISHED",
    }
    assert publisher.run().published == 0


def test_one_that_failed_is_tried_again_when_its_time_has_come_and_then_those_after_it(publisher, refuse):
    send("a1", "a2", key="a")
    refuse("a1")
    publisher.run()
    refuse()
    assert publisher.run().published == 0
    let_pause_pass()
    assert publisher.run().published == 2
    assert event_ids() == ["a1", "a2"]
    rows = OutboxMessage.objects.order_by("pk")
    assert list(rows.values_list("attempts", "last_error")) == [(1, ""), (0, "")]


def test_the_pauses_grow_and_it_is_never_given_up(publisher, refuse):
    send("a")
    refuse("a")
    for attempts in range(1, 4):
        let_pause_pass()
        publisher.run()
        row = OutboxMessage.objects.annotate(now=DatabaseNow()).get()
        assert (row.state, row.attempts, row.last_error) == (
            State.FAILED,
            attempts,
            "LookupError: not that one",
        )
        assert timedelta(0) < row.try_at - row.now <= timedelta(seconds=2 ** (attempts - 1))
    pauses = [batches.pause_after(attempts).total_seconds() for attempts in (1, 2, 9, 10, 10_000)]
    assert pauses == [1, 2, 256, 300, 300]


def test_more_rows_than_a_batch_that_wait_for_a_failed_one_hide_no_others(refuse):
    send(*[f"a{number}" for number in range(7)], key="a")
    send("b")
    refuse("a0")
    publisher = Publisher("default", 2)
    assert publisher.run().published == 1
    assert event_ids() == ["b"]


def test_brokers_have_outboxes_of_their_own(settings, publisher):
    away = {"URL": "amqp://guest:guest@127.0.0.1:1//"}
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "memory://"}, "away": away}
    send("a", broker="away", key="k")
    send("b", key="k")
    passed = publisher.run()
    assert (passed.published, list(passed.away)) == (1, ["away"])
    assert states() == {"a": "WAITING", "b": "PUBLISHED"}


def test_a_message_for_a_broker_that_the_settings_have_lost_is_told_of(settings, publisher):
    settings.IDEMPOTENCY_BROKERS = {"gone": {"URL": "memory://"}, "default": {"URL": "memory://"}}
    send("a", broker="gone")
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "memory://"}}
    assert publisher.run().away == {"gone": "IDEMPOTENCY_BROKERS does not have it"}
    assert states() == {"a": "WAITING"}


def test_an_exchange_that_no_queue_is_bound_to_loses_nothing(publisher):
    send("a", exchange="shop", queue="order.paid")
    (failed,) = publisher.run().failed
    assert "No queue is bound to exchange 'shop' under 'order.paid'." in failed
    with Connection("memory://") as broker:
        channel = broker.channel()
        channel.exchange_declare("shop", "topic")
        channel.queue_declare("orders")
        channel.queue_bind("orders", "shop", "order.*")
    let_pause_pass()
    assert publisher.run().published == 1
    assert event_ids("orders") == ["a"]


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


def test_an_outage_is_logged_once_and_tried_again_later_and_later(settings, caplog):
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "amqp://guest:guest@127.0.0.1:1//"}}
    now = [100.0]
    publisher = Publisher("default", clock=lambda: now[0])
    send("a")
    rests = []
    for _ in range(9):
        assert "refused" in publisher.run().away["default"]
        rests.append(publisher.outages["default"].ends_at - now[0])
        now[0] = publisher.outages["default"].ends_at
    assert rests == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert len(caplog.records) == 1
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "memory://"}}
    now[0] -= 1
    assert publisher.run().published == 0
    now[0] += 1
    assert publisher.run().published == 1
    assert len(caplog.records) == 1
    assert states() == {"a": "PUBLISHED"}


@has_row_locks
def test_what_another_publisher_holds_is_left_to_it_and_so_is_what_comes_after_that(publisher):
    send("a1", "a2", key="a")
    send("b1", key="b")
    with transaction.atomic():
        list(OutboxMessage.objects.filter(event_id="a1").select_for_update())
        assert in_a_thread(Publisher("default").run).published == 1
    assert event_ids() == ["b1"]
    assert publisher.run().published == 2


@has_row_locks
def test_what_another_publisher_holds_keeps_no_mark_waiting(publisher):
    """Also of those that failed, and where InnoDB would rather scan a short table."""
    send(*"abcdef")
    OutboxMessage.objects.filter(event_id__in="bc").update(state=State.FAILED, try_at=DatabaseNow())
    with transaction.atomic():
        list(OutboxMessage.objects.filter(event_id__in="abd").select_for_update())
        assert in_a_thread(Publisher("default").run).published == 3
    assert sorted(event_ids()) == ["c", "e", "f"]


@pytest.mark.skipif(VENDOR != "mariadb", reason="is about InnoDB's locks of gaps")
def test_a_batch_that_is_held_keeps_no_business_waiting_under_repeatable_read(monkeypatch):
    send(*"abc", key="k")
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    held = batches.Batches("default", "default")

    def insert():
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
        send("d", key="k")

    try:
        with held.transaction():
            held.revive()
            rows = held.in_order(held.take(0, 500))
            in_a_thread(insert)
            held.mark_published([row.id for row in rows])
    finally:
        connection.close()
    assert list(states().values()) == ["PUBLISHED"] * 3 + ["WAITING"]


@pytest.mark.skipif(VENDOR != "postgresql", reason="is about PostgreSQL's snapshots")
def test_rows_that_were_published_since_the_snapshot_are_no_conflict_under_repeatable_read():
    send("a", "b")
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    held = batches.Batches("default", "default")
    try:
        with held.transaction():
            held.revive()
            in_a_thread(Publisher("default").run)
            assert held.take(0, 500) == []
    finally:
        connection.close()
    assert event_ids() == ["a", "b"]


def test_a_publisher_within_a_transaction_is_refused(publisher):
    send("a")
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        publisher.run()
