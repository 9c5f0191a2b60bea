"""What is to become of a delivery, whatever the broker."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection

from idempotency.consumers import Consumer
from idempotency.consumers.failures import Failures
from idempotency.consumers.handling import Delivery, Fate
from idempotency.models import FailedMessage, InboxMessage
from tests.conftest import in_a_thread, let_lease_pass

pytestmark = pytest.mark.django_db(transaction=True)
KINDS = ["transactional", "at_most_once", "at_least_once"]


class Lost(Exception):
    pass


def consumer(delivery="transactional", work=lambda event: None, **options):
    options |= {"lease": timedelta(seconds=60)} if delivery != "transactional" else {}
    return Consumer(lambda event: work(event), "event", name="tests", delivery=delivery, **options)


def delivery(consumer, event="e-1", max_attempts=3, **facts):
    return Delivery(consumer, (event,), {}, max_attempts=max_attempts, **facts)


def handled(*arguments, **facts):
    found = delivery(*arguments, **facts).handle()
    return found.fate, found.reason


def fail(event):
    raise Lost("no such customer")


def failures():
    """How often each has failed, and whether it is tried again."""
    return [(failed.attempts, failed.dead_at is None) for failed in FailedMessage.objects.all()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handled_leaves_no_failure(kind):
    for is_suspect in (False, True, True):
        assert handled(consumer(kind), is_suspect=is_suspect) == (Fate.DONE, "")
    assert failures() == []


@pytest.mark.parametrize("kind", ["transactional", "at_least_once"])
def test_what_fails_is_tried_again_ever_later_and_then_given_up(kind):
    pauses = [delivery(consumer(kind, fail)).handle().seconds for _ in range(2)]
    assert 0.8 <= pauses[0] <= 1.2
    assert 1.6 <= pauses[1] <= 2.4
    assert failures() == [(2, True)]
    fate, reason = handled(consumer(kind, fail))
    assert fate is Fate.DEAD
    assert "failed 3 times, at last with Lost: no such customer" in reason
    assert failures() == [(3, False)]


def test_it_is_not_held_for_longer_than_five_minutes():
    for _ in range(12):
        last = delivery(consumer(work=fail), max_attempts=100).handle()
    assert 240 <= last.seconds <= 360


@pytest.mark.parametrize("kind", ["transactional", "at_least_once"])
def test_success_forgets_that_it_failed(kind):
    handled(consumer(kind, fail))
    assert handled(consumer(kind), has_failed=True) == (Fate.DONE, "")
    assert failures() == []


def test_what_takes_its_worker_with_it_is_given_up():
    for _ in range(3):
        # Its worker dies here each time.
        Failures(consumer().scoped_key("e-1"), "default").begin()
    fate, reason = handled(consumer(work=unwanted), is_suspect=True)
    assert (fate, reason) == (Fate.DEAD, "It was begun 3 times, and did not end.")
    assert not InboxMessage.objects.exists()


def unwanted(event):
    raise AssertionError("it runs")


@pytest.mark.skipif(connection.vendor == "sqlite", reason="on SQLite the second caller waits")
@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_what_is_being_worked_on_do_not_give_it_up(kind):
    seen = []

    def work(event):
        copies = [delivery(consumer(kind), max_attempts=1, is_suspect=True) for _ in range(3)]
        seen.extend(in_a_thread(lambda: [copies_all_begun(), *(copy.handle().fate for copy in copies)])[1:])

    assert handled(consumer(kind, work)) == (Fate.DONE, "")
    assert seen == [Fate.LATER] * 3
    # Those of the others, who will take back theirs.
    assert failures() == [(3, True)]
    assert handled(consumer(kind, unwanted), max_attempts=1, is_suspect=True) == (Fate.DONE, "")
    assert failures() == []


def copies_all_begun():
    """As if others had come at the same moment."""
    for _ in range(3):
        Failures(consumer().scoped_key("e-1"), "default").begin()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="on SQLite the second caller waits")
@pytest.mark.parametrize("kind", KINDS)
def test_what_somebody_else_has_is_held_and_not_counted(kind):
    seen = []

    def work(event):
        for is_suspect in (False, True):
            again = delivery(consumer(kind), is_suspect=is_suspect)
            seen.append(in_a_thread(again.handle))

    assert handled(consumer(kind, work)) == (Fate.DONE, "")
    assert [each.fate for each in seen] == [Fate.LATER] * 2
    assert all(each.seconds >= (1 if kind == "transactional" else 50) for each in seen)
    assert failures() == []


def test_what_nobody_knows_and_nobody_can_be_asked_is_given_up_at_once():
    fate, reason = handled(consumer("at_most_once", fail))
    assert fate is Fate.DEAD
    assert reason.startswith("Its outcome is not known: Lost")
    assert failures() == [(1, False)]


def test_what_is_known_not_to_be_done_is_tried_again():
    assert handled(consumer("at_most_once", fail, not_done=(Lost,)))[0] is Fate.LATER
    assert handled(consumer("at_most_once"), has_failed=True) == (Fate.DONE, "")


def test_what_can_be_asked_about_is_asked_each_time_and_given_up_in_the_end():
    answers = [None, None, None]
    asked = consumer("at_most_once", fail, reconcile=lambda event: answers.pop())
    fates = [handled(asked)[0]]
    let_lease_pass()
    while fates[-1] is Fate.LATER:
        fates.append(handled(asked, has_failed=True)[0])
    assert fates == [Fate.LATER, Fate.LATER, Fate.DEAD]
    assert len(answers) == 1


def test_a_dead_letter_that_comes_again_is_dead_unless_it_was_revived():
    for _ in range(3):
        before = handled(consumer(work=fail))
    assert handled(consumer(work=unwanted), is_suspect=True) == before
    assert handled(consumer(), is_revived=True) == (Fate.DONE, "")
    assert failures() == []


@pytest.mark.parametrize("event", [None, "", 1.5, "a\nb"])
def test_without_a_business_id_it_is_given_up_at_once(event):
    fate, reason = handled(consumer(work=unwanted), event)
    assert fate is Fate.DEAD
    assert "business id" in reason
    assert failures() == []


def test_what_cannot_be_read_is_given_up_at_once():
    fate, reason = handled(consumer(work=fail), hopeless=(Lost,))
    assert fate is Fate.DEAD
    assert reason.startswith("It cannot be read: Lost")


def test_coroutine_functions_are_handled_too():
    async def receive(event):
        return event

    asynchronous = Consumer(receive, "event", name="tests", delivery="transactional")
    assert delivery(asynchronous).handle().result == "e-1"


def test_a_time_limit_passes_through():
    def work(event):
        raise SystemExit

    with pytest.raises(SystemExit):
        delivery(consumer(work=work)).handle()
    assert failures() == []
