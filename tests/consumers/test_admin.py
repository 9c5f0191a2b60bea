"""The inbox in the admin: what became of messages, which failed, and what an operator decides."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from django.contrib import admin
from django.urls import path

from idempotency.consumers import Consumer
from idempotency.consumers.failures import Failures
from idempotency.database import DatabaseNow
from idempotency.exceptions import OutcomeUnknown
from idempotency.models import FailedMessage, IdempotencyRecord, InboxMessage
from tests import test_admin as admin_tests
from tests.conftest import let_lease_pass
from tests.test_admin import keep

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

State = IdempotencyRecord.State
INBOX = "/admin/idempotency/inboxmessage/"
FAILED = "/admin/idempotency/failedmessage/"
VIEWS = ("view_inboxmessage", "view_failedmessage")
signed_in = partial(admin_tests.signed_in, views=VIEWS)


@pytest.fixture
def viewer(client):
    return signed_in(client)


@pytest.fixture
def operator(client):
    return signed_in(client, "decide_idempotencyrecord", "release_idempotencyrecord", "delete_failedmessage")


def consumer(work=lambda event: None, delivery="at_most_once"):
    return Consumer(lambda event: work(event), "event", name="sms.paid", delivery=delivery)


def handled(event="e-1"):
    consumer(delivery="transactional").call(event)


def unknown(event="e-1"):
    def work(event):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        consumer(work).call(event)
    return InboxMessage.objects.with_key(event).get()


def failed(event="e-1", *, dead=False):
    failures = Failures(consumer().scoped_key(event), "default")
    failures.note(ValueError("no such customer"), counted=False)
    if dead:
        failures.bury("It failed 10 times.")
    return FailedMessage.objects.with_key(event).get()


def listed(client, url, **query):
    return {row.key for row in client.get(url, query).context["cl"].result_list}


def page(client, url):
    return client.get(url).content.decode()


def test_the_inbox_lists_messages_and_no_other_records(viewer):
    keep("a-request")
    handled("e-1")
    unknown("e-2")
    assert listed(viewer, INBOX) == {"e-1", "e-2"}
    assert listed(viewer, INBOX, state__exact=State.UNKNOWN) == {"e-2"}
    assert listed(viewer, INBOX, q="e-1") == {"e-1"}


def test_it_shows_age_attempts_and_the_last_error(viewer):
    unknown("e-1")
    failed("e-1")
    failed("e-1")
    IdempotencyRecord.objects.update(created_at=DatabaseNow() - timedelta(hours=3))
    shown = page(viewer, INBOX)
    for text in (
        "sms.paid",
        "e-1",
        "outcome unknown",
        "3\xa0hours",
        '"field-attempts">2<',
        "no such customer",
    ):
        assert text in shown, text
    detail = page(viewer, f"{INBOX}{InboxMessage.objects.get().pk}/change/")
    for text in ("sms.paid", "business id", "no such customer"):
        assert text.lower() in detail.lower(), text


def test_what_needs_a_decision_is_found_and_decided(operator):
    message = unknown("e-1")
    handled("e-2")
    let_lease_pass()
    assert listed(operator, INBOX, decision="needed") == {"e-1"}
    decide = f"{INBOX}{message.pk}/decide/"
    assert f'href="{decide}"' in page(operator, f"{INBOX}{message.pk}/change/")
    asked = operator.get(decide)
    data = {"seen": asked.context["seen"], "reason": "The gateway has sent it."}
    # Nobody is answered over HTTP.
    assert list(dict(asked.context["form"].fields["decision"].choices)) == ["returned"]
    answer = operator.post(decide, data | {"decision": "returned", "result": "null"})
    assert answer.status_code == 302, answer.content.decode()
    assert consumer(unwanted).call("e-1") is None
    kept = IdempotencyRecord.objects.filter(expires_at__gt=DatabaseNow() + timedelta(days=6))
    assert kept.with_key("e-1").exists()


def unwanted(event):
    raise AssertionError("it runs")


def test_one_that_was_not_done_is_released_and_handled_again(operator):
    message = unknown("e-1")
    let_lease_pass()
    chosen = {"action": "release_records", "_selected_action": [message.pk]}
    form = operator.post(INBOX, chosen).context
    seen = [f"{record.pk}:{look}" for record, look in form["possible"]]
    operator.post(INBOX, chosen | {"confirmed": "yes", "reason": "Never sent.", "seen": seen})
    calls = []
    consumer(calls.append).call("e-1")
    assert calls == ["e-1"]


def test_nobody_decides_without_the_permission(viewer):
    message = unknown("e-1")
    assert viewer.get(f"{INBOX}{message.pk}/decide/").status_code == 403
    with pytest.raises(OutcomeUnknown):
        consumer().call("e-1")


def test_failed_messages_are_listed_with_why(viewer):
    failed("e-1")
    failed("e-2", dead=True)
    FailedMessage.objects.update(first_failed_at=DatabaseNow() - timedelta(days=2))
    assert listed(viewer, FAILED) == {"e-1", "e-2"}
    assert listed(viewer, FAILED, dead="yes") == {"e-2"}
    assert listed(viewer, FAILED, dead="no") == {"e-1"}
    assert listed(viewer, FAILED, q="e-2") == {"e-2"}
    shown = page(viewer, FAILED)
    for text in ("sms.paid", "2\xa0days", "ValueError: no such customer", "It failed 10 times."):
        assert text in shown, text
    assert "ValueError: no such customer" in page(viewer, f"{FAILED}{failed('e-1').pk}/change/")


@pytest.mark.parametrize("url", [INBOX, FAILED])
def test_nothing_is_added_or_changed(admin_client, url):
    unknown("e-1")
    failed("e-1")
    assert admin_client.get(f"{url}add/").status_code == 403
    model = InboxMessage if url == INBOX else FailedMessage
    assert admin_client.post(f"{url}{model.objects.get().pk}/change/", {}).status_code == 403


def test_a_failure_may_be_forgotten_by_whoever_may_delete(operator):
    message = failed("e-1")
    operator.post(f"{FAILED}{message.pk}/delete/", {"post": "yes"})
    assert not FailedMessage.objects.exists()


def test_what_others_fail_of_is_not_shown_with_a_message(viewer):
    unknown("e-1")
    other = Consumer(lambda event: None, "event", name="others", delivery="at_most_once")
    Failures(other.scoped_key("e-1"), "default").note(ValueError("of another consumer"), counted=False)
    assert "of another consumer" not in page(viewer, INBOX)
