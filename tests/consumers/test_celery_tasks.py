"""How a task is called where no worker is, and what its code tells a worker."""

from __future__ import annotations

import inspect
import uuid

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from idempotency.consumers import registered
from idempotency.consumers.celery import send_again
from idempotency.exceptions import GivenUp, InvalidKey, OperationInProgress
from idempotency.models import FailedMessage
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
NOBODY_THERE = {
    "broker_write_url": "amqp://127.0.0.1:1//",
    "broker_transport_options": {"max_retries": 1, "interval_start": 0},
    "task_publish_retry": False,
}


@pytest.fixture
def place(make):
    def place(event, note="", *, fails=False):
        order = Order.objects.create(reference=event, note=note)
        if fails:
            raise LookupError(event)
        return order.pk

    return make(place)


@pytest.fixture
def as_a_worker(app):
    """``as_a_worker(task, *args, **kwargs)``: what its code returns or raises under a message's request."""

    def as_a_worker(task, *args, request=(), tag=None, **kwargs):
        request = {"id": uuid.uuid4().hex, "retries": 0, "delivery_info": {}, **dict(request)}
        request["properties"] = {"delivery_tag": tag or uuid.uuid4().hex}
        task.push_request(called_directly=False, args=args, kwargs=kwargs, **request)
        try:
            return task.run(*args, **kwargs)
        finally:
            task.pop_request()

    return as_a_worker


def test_the_tasks_arguments_are_the_functions(place):
    assert str(inspect.signature(place.run)).startswith("(event, note='', *, fails=False)")
    with pytest.raises(TypeError, match="event"):
        place.apply_async()
    with pytest.raises(TypeError):
        place.delay("1", wrong=True)


def test_a_direct_call_goes_through_the_consumer(place):
    assert place("1") == place("1", note="again") == Order.objects.get().pk


def test_a_direct_call_raises_what_the_function_raises(place):
    with pytest.raises(LookupError):
        place("1", fails=True)
    assert not Order.objects.exists()
    assert not FailedMessage.objects.exists()


def test_an_eager_task_goes_through_the_consumer(app, place):
    app.conf.task_always_eager = True
    assert place.delay("1").get() == place.s("1").apply_async().get() == Order.objects.get().pk
    assert place.apply(("1",)).get() == Order.objects.get().pk


def test_an_eager_task_fails_at_once(app, place):
    app.conf.task_always_eager = True
    result = place.delay("1", fails=True)
    assert isinstance(result.result, LookupError)
    assert not FailedMessage.objects.exists()


def test_a_bound_function_is_given_the_task_and_its_key_is_not(make, as_a_worker):
    def place(self, event, *, note=""):
        Order.objects.create(reference=event, note=self.request.id or "")
        return self.name

    task = make(place, bind=True, key=lambda event, **more: event)
    assert as_a_worker(task, "1", request={"id": "number-1"}) == task.name
    assert as_a_worker(task, event="1", request={"id": "number-2"}) == task.name
    assert Order.objects.get().note == "number-1"
    assert task("1") == task.name
    assert registered(task.name).call("1") == task.name


def test_without_keep_result_a_duplicate_returns_none(make, as_a_worker):
    def answer(event):
        return 42

    task = make(answer, keep_result=False)
    assert (as_a_worker(task, "1"), as_a_worker(task, "1")) == (42, None)


def test_a_message_without_a_business_id_is_given_up_and_logged_with_its_arguments(
    place, as_a_worker, caplog
):
    with pytest.raises(InvalidKey):
        as_a_worker(place, None, note="kept")
    assert '"kept"' in caplog.text


def test_arguments_that_are_not_the_tasks_are_given_up_and_logged(place, as_a_worker, caplog):
    with pytest.raises(TypeError):
        as_a_worker(place, "1", colour="red")
    assert '"red"' in caplog.text


@pytest.mark.parametrize("asked", [Ignore(), Reject(requeue=True), Reject(requeue=False)])
def test_a_function_cannot_have_its_message_dropped_or_go_round(make, as_a_worker, asked):
    def place(event):
        raise asked

    task = make(place, max_attempts=2)
    with pytest.raises(Retry):
        as_a_worker(task, "1")
    with pytest.raises(GivenUp):
        as_a_worker(task, "1", request={"retries": 1})
    assert FailedMessage.objects.get().message


def test_a_soft_time_limit_over_the_bookkeeping_loses_nothing(place, as_a_worker, monkeypatch):
    def interrupted(*args, **kwargs):
        raise SoftTimeLimitExceeded

    monkeypatch.setattr("idempotency.consumers.failures.Failures.note", interrupted)
    with pytest.raises(Retry):
        as_a_worker(place, "1", fails=True)


def test_a_message_is_put_back_when_its_successor_cannot_be_sent(app, place, as_a_worker):
    app.conf.update(NOBODY_THERE)
    with pytest.raises(Reject) as rejected:
        as_a_worker(place, "1", fails=True)
    assert rejected.value.requeue


def test_copies_of_a_message_have_one_successor(app, make, as_a_worker, monkeypatch):
    def place(event):
        raise OperationInProgress

    task, sent = make(place), []
    monkeypatch.setattr(
        "idempotency.consumers.celery_messages.TaskMessage._publish", lambda *a: sent.append(a)
    )
    monkeypatch.setattr("uuid.UUID.hex", "the-same")
    with pytest.raises(Retry):
        as_a_worker(task, "1")
    with pytest.raises(Ignore):
        as_a_worker(task, "1")
    assert len(sent) == 1


def test_a_pause_is_shorter_than_what_is_handed_out_is_hidden(app, place, as_a_worker):
    app.conf.broker_transport_options = {"visibility_timeout": 0.2}
    with pytest.raises(Retry) as retried:
        as_a_worker(place, "1", fails=True)
    assert retried.value.when == pytest.approx(0.1)


def test_what_was_given_up_stays_when_it_cannot_be_sent_again(app, place, as_a_worker):
    for retries in range(10):
        with pytest.raises(LookupError if retries == 9 else Retry):
            as_a_worker(place, "1", fails=True, request={"retries": retries})
    failed = FailedMessage.objects.get()
    app.conf.update(NOBODY_THERE)
    with pytest.raises(place.OperationalError):
        send_again(failed, app=app)
    assert FailedMessage.objects.get() == failed


def test_what_is_kept_nowhere_cannot_be_sent_again():
    with pytest.raises(ValueError, match="not kept"):
        send_again(FailedMessage(consumer="orders", key="1"))
