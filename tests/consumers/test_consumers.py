"""@idempotent_consumer around a callable: what is done once, what comes back, and what is asked."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from idempotency.consumers import idempotent_consumer, registered
from idempotency.database import DatabaseNow
from idempotency.exceptions import InvalidKey, NotStorable, OperationInProgress, OutcomeUnknown
from idempotency.models import IdempotencyRecord, InboxMessage, OperationRun
from idempotency.signals import claimed, completed, refused, replayed
from idempotency.steps import downstream_key
from tests.conftest import in_a_thread, let_lease_pass
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)
State = IdempotencyRecord.State
KINDS = ["transactional", "at_most_once", "at_least_once"]
ID = "0b6a0b32-7f0e-4f4c-a2f1-4a5be0a5a0a1"


class Lost(Exception):
    """The answer of the gateway's."""


def consumer(delivery="transactional", work=lambda event: None, name="tests", key="event", **options):
    """Around what creates an Order and then does the work. Tests name theirs alike."""

    def function(event):
        Order.objects.create(reference=str(event))
        return work(event)

    return idempotent_consumer(name, key=key, delivery=delivery, **options)(function)


def orders():
    return list(Order.objects.order_by("pk").values_list("reference", flat=True))


def fail(event):
    raise Lost


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_a_message_is_handled_once(kind):
    receive = consumer(kind)
    for _ in range(3):
        assert receive("e-1") is None
    receive("e-2")
    assert orders() == ["e-1", "e-2"]
    assert set(InboxMessage.objects.values_list("state", flat=True)) == {State.COMPLETED}
    assert not OperationRun.objects.exists()


def test_ids_may_be_texts_numbers_and_uuids_and_look_alike(kind):
    receive = consumer(kind)
    for event in (17, "17", UUID(ID), ID):
        receive(event)
    assert orders() == ["17", ID]


def test_two_consumers_of_one_event_are_two_operations(kind):
    consumer(kind)("e-1")
    consumer(kind, name="others")("e-1")
    assert orders() == ["e-1", "e-1"]


def test_the_id_may_be_found_in_the_message(kind):
    receive = consumer(kind, key=lambda event: event["headers"]["event_id"])
    for body in (1, 2):
        receive({"headers": {"event_id": "e-1"}, "body": body})
    assert len(orders()) == 1


@pytest.mark.parametrize("event", [{}, None, {"headers": None}, {"headers": {"event_id": None}}])
def test_a_message_without_an_id_is_refused_before_anything_is_done(kind, event):
    receive = consumer(kind, key=lambda event: event["headers"]["event_id"])
    with pytest.raises(InvalidKey, match="business id"):
        receive(event)
    assert orders() == []
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.parametrize("event", ["", "a\nb", "x" * 256, "naïve", 1.5, True, b"bytes"])
def test_an_id_that_is_none_is_refused(kind, event):
    with pytest.raises(InvalidKey, match="malformed"):
        consumer(kind)(event)
    assert orders() == []


def test_it_may_be_sent_again_with_another_payload_or_after_keys_were_rotated(kind, settings):
    receive = consumer(kind, key=lambda event: event["id"])
    receive({"id": "e-1", "sent": 1})
    settings.SECRET_KEY = "another"
    receive({"id": "e-1", "sent": 2})
    assert len(orders()) == 1


def test_what_it_returns_is_kept_where_that_is_asked_for(kind):
    receive = consumer(kind, work=lambda event: {"order": 7}, keep_result=True)
    assert [receive("e-1"), receive("e-1")] == [{"order": 7}] * 2
    forgetful = consumer(kind, work=lambda event: object())
    assert forgetful("e-2") is not None
    assert forgetful("e-2") is None


def test_a_result_that_is_to_be_kept_and_cannot_be_is_rolled_back():
    receive = consumer(work=lambda event: object(), keep_result=True)
    with pytest.raises(NotStorable):
        receive("e-1")
    assert orders() == []


@pytest.mark.parametrize("delivery", ["transactional", "at_least_once"])
def test_one_that_failed_is_handled_again(delivery):
    with pytest.raises(Lost):
        consumer(delivery, work=fail)("e-1")
    assert orders() == []
    assert not InboxMessage.objects.exists()
    consumer(delivery)("e-1")
    assert orders() == ["e-1"]


def test_the_downstream_key_is_the_same_each_time():
    keys = []

    def work(event):
        keys.append(downstream_key())
        raise Lost

    for event in ("e-1", "e-1", "e-2"):
        with pytest.raises(Lost):
            consumer("at_least_once", work=work)(event)
    assert keys[0] == keys[1] != keys[2]


def test_what_broke_at_most_once_is_unknown_and_not_done_again():
    with pytest.raises(Lost):
        consumer("at_most_once", work=fail)("e-1")
    with pytest.raises(OutcomeUnknown):
        consumer("at_most_once")("e-1")
    assert orders() == []
    assert InboxMessage.objects.get().state == State.UNKNOWN


def test_what_is_known_not_to_have_been_done_is_done_again():
    with pytest.raises(Lost):
        consumer("at_most_once", work=fail, not_done=Lost)("e-1")
    consumer("at_most_once")("e-1")
    assert orders() == ["e-1"]


@pytest.mark.parametrize(("answer", "found"), [(True, []), (False, ["e-1"])])
def test_whoever_knows_is_asked_what_became_of_it(answer, found):
    asked = []

    def ask(event):
        asked.append(event)
        return answer

    with pytest.raises(Lost):
        consumer("at_most_once", work=fail)("e-1")
    receive = consumer("at_most_once", reconcile=ask)
    for _ in range(2):
        receive("e-1")
    assert asked == ["e-1"]
    assert orders() == found
    assert InboxMessage.objects.get().state == State.COMPLETED


def test_one_that_was_abandoned_is_asked_about_too():
    with pytest.raises(Lost):
        consumer("at_most_once", work=fail)("e-1")
    IdempotencyRecord.objects.update(state=State.RUNNING)
    let_lease_pass()
    consumer("at_most_once", reconcile=lambda event: True)("e-1")
    assert InboxMessage.objects.get().state == State.COMPLETED


def ask_in_vain(event):
    raise ConnectionError("away")


@pytest.mark.parametrize("reconcile", [lambda event: None, ask_in_vain])
def test_nobody_knows_yet_and_nothing_is_changed(reconcile):
    with pytest.raises(Lost):
        consumer("at_most_once", work=fail)("e-1")
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            consumer("at_most_once", reconcile=reconcile)("e-1")
    assert InboxMessage.objects.get().state == State.UNKNOWN
    consumer("at_most_once", reconcile=lambda event: False)("e-1")
    assert orders() == ["e-1"]


def test_an_answer_that_is_none_is_a_defect_and_changes_nothing():
    with pytest.raises(Lost):
        consumer("at_most_once", work=fail)("e-1")
    with pytest.raises(TypeError, match=r"True .* False .* None"):
        consumer("at_most_once", reconcile=lambda event: "yes")("e-1")
    assert InboxMessage.objects.get().state == State.UNKNOWN


def test_an_answer_about_an_earlier_attempt_is_not_applied_to_a_later_one():
    """Two have asked, and were told that it was not sent; one sends, and breaks off."""

    def ask(event):
        in_a_thread(lambda: ends_in(Lost, consumer("at_most_once", work=fail, reconcile=lambda event: False)))
        return False

    with pytest.raises(Lost):
        consumer("at_most_once", work=fail)("e-1")
    ran = []
    with pytest.raises(OperationInProgress):
        consumer("at_most_once", work=ran.append, reconcile=ask)("e-1")
    assert ran == []


def ends_in(error, receive):
    with pytest.raises(error):
        receive("e-1")


def test_whoever_comes_meanwhile_is_told_when_to_come_again(kind):
    told = []

    def work(event):
        with pytest.raises(OperationInProgress) as busy:
            in_a_thread(lambda: consumer(kind)(event))
        told.append(busy.value.retry_after)

    options = {} if kind == "transactional" else {"lease": timedelta(seconds=100)}
    if kind == "transactional" and connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    consumer(kind, work=work, **options)("e-1")
    assert told == [1] if kind == "transactional" else 95 < told[0] <= 100


def test_its_retention_is_the_inbox_s(kind, settings):
    settings.IDEMPOTENCY_INBOX_RETENTION = timedelta(days=3)
    consumer(kind)("e-1")
    consumer(kind, retention=timedelta(days=30))("e-2")
    for days, key in ((3, "e-1"), (30, "e-2")):
        kept = IdempotencyRecord.objects.filter(
            key=key,
            expires_at__gt=DatabaseNow() + timedelta(days=days, minutes=-1),
            expires_at__lte=DatabaseNow() + timedelta(days=days),
        )
        assert kept.exists()


def test_one_that_is_no_longer_known_is_handled_again(kind):
    receive = consumer(kind)
    receive("e-1")
    IdempotencyRecord.objects.update(expires_at=DatabaseNow() - timedelta(seconds=1))
    receive("e-1")
    receive("e-1")
    assert orders() == ["e-1", "e-1"]


def test_coroutine_functions_are_consumers_too(kind):
    calls = []

    @idempotent_consumer("tests-async", key="event", delivery=kind, keep_result=True)
    async def receive(event):
        calls.append(event)
        return len(calls)

    async def twice():
        return [await receive("e-1"), await receive("e-1")]

    assert async_to_sync(twice)() == [1, 1]
    assert calls == ["e-1"]


def test_within_a_transaction_it_stands_or_falls_with_that():
    with pytest.raises(Lost), transaction.atomic():
        consumer()("e-1")
        raise Lost
    assert not IdempotencyRecord.objects.exists()
    with transaction.atomic():
        consumer()("e-1")
    consumer()("e-1")
    assert orders() == ["e-1"]


def test_signals_tell_what_happened():
    heard = []
    signals = {"claimed": claimed, "completed": completed, "replayed": replayed, "refused": refused}
    receivers = {name: (lambda key, name=name, **more: heard.append((name, key.key))) for name in signals}
    for name, signal in signals.items():
        signal.connect(receivers[name])
    try:
        for _ in range(2):
            consumer()("e-1")
    finally:
        for name, signal in signals.items():
            signal.disconnect(receivers[name])
    assert heard == [("claimed", "e-1"), ("completed", "e-1"), ("replayed", "e-1")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "stable name"),
        ({"name": "x" * 256}, "stable name"),
        ({"delivery": "exactly_once"}, "unknown: use 'transactional', 'at_most_once'"),
        ({"delivery": "transactional", "reconcile": bool}, "are of delivery 'at_most_once'"),
        ({"delivery": "at_least_once", "not_done": Lost}, "are of delivery 'at_most_once'"),
        ({"delivery": "transactional", "lease": timedelta(seconds=9)}, "has no lease"),
        ({"delivery": "at_most_once", "lease": 30}, "at least a second"),
        ({"key": "message"}, "no argument 'message'"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(options, words):
    with pytest.raises(TypeError, match=words):
        consumer(**options)


def test_a_coroutine_function_cannot_be_asked():
    async def ask(event):
        return True

    with pytest.raises(TypeError, match="reconcile"):
        consumer("at_most_once", reconcile=ask)


def test_a_name_is_one_consumer_s():
    consumer(name="tests-one")
    consumer(name="tests-one")  # the module was loaded again
    with pytest.raises(TypeError, match="two consumers 'tests-one'"):
        idempotent_consumer("tests-one", key="event", delivery="transactional")(lambda event: None)
    assert registered("tests-one").delivery == "transactional"
    assert registered("tests-none") is None
