"""The outbox in the admin: what is shown to whom, discarding, and hurrying."""

from __future__ import annotations

from functools import partial

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from idempotency import outbox
from idempotency.models import OutboxMessage
from tests import test_admin as admin_tests
from tests.conftest import in_a_thread
from tests.outbox.conftest import State, event_ids, send, states

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_admin")]
LIST = "/admin/idempotency/outboxmessage/"
VIEWS = ("view_outboxmessage",)
signed_in = partial(admin_tests.signed_in, views=VIEWS)


@pytest.fixture
def viewer(client):
    return signed_in(client)


@pytest.fixture
def operator(client):
    return signed_in(client, "delete_outboxmessage")


def page_of(client, event_id):
    return client.get(f"{LIST}{OutboxMessage.objects.get(event_id=event_id).pk}/change/").content.decode()


def listed(client, **query):
    return {row.event_id for row in client.get(LIST, query).context["cl"].result_list}


def act(client, action, *event_ids, **more):
    pks = OutboxMessage.objects.filter(event_id__in=event_ids).values_list("pk", flat=True)
    return client.post(LIST, {"action": action, "_selected_action": list(pks), **more}, follow=True)


def failed(*event_ids):
    send(*event_ids)
    OutboxMessage.objects.filter(event_id__in=event_ids).update(
        state=State.FAILED, attempts=3, last_error="No <queue> is bound", try_at="2100-01-01T00:00Z"
    )


def test_the_list_shows_state_age_attempts_and_the_last_error(viewer):
    failed("a")
    page = viewer.get(LIST).content.decode()
    for shown in (
        "failed, to be tried again",
        "0\xa0minutes",
        '<td class="field-attempts">3</td>',
        "No &lt;queue&gt;",
    ):
        assert shown in page


def test_it_is_searched_by_the_exact_event_id_and_filtered_by_state_and_broker(viewer, settings):
    settings.IDEMPOTENCY_BROKERS = {alias: {"URL": "memory://"} for alias in ("default", "other")}
    send("a", "ab")
    failed("b")
    send("c", broker="other")
    assert listed(viewer, q="a") == {"a"}
    assert listed(viewer, state__exact=State.FAILED) == {"b"}
    assert listed(viewer, broker="other") == {"c"}


def test_nobody_asks_about_what_is_hidden_through_the_lists_address(viewer):
    assert viewer.get(LIST, {"body__startswith": "x"}).status_code == 400


def test_headers_and_body_are_shown_to_those_who_may_read_them(client):
    with transaction.atomic():
        outbox.send({"card": "<4111>"}, routing_key="q", event_id="a", headers={"trace": "t<1>"})
        outbox.send(b"\xff", routing_key="q", event_id="b", content_type="image/png")
    page = page_of(signed_in(client), "a")
    assert "4111" not in page
    assert "t&lt;1" not in page
    assert "idempotency.view_stored_response" in page
    User.objects.all().delete()
    reader = signed_in(client, "view_stored_response")
    page = page_of(reader, "a")
    assert "&lt;4111&gt;" in page
    assert "t&lt;1&gt;" in page
    assert "1 bytes" in page_of(reader, "b")


def test_nothing_is_added_or_edited_and_only_deleted_by_those_who_may(viewer):
    send("a")
    pk = OutboxMessage.objects.get().pk
    assert viewer.get(f"{LIST}add/").status_code == 403
    assert viewer.post(f"{LIST}{pk}/change/", {"routing_key": "x"}).status_code == 403
    assert viewer.post(f"{LIST}{pk}/delete/", {"post": "yes"}).status_code == 403
    assert "try_again" not in viewer.get(LIST).content.decode()


def test_what_was_discarded_is_never_published_and_those_after_it_go_on(operator, publisher):
    failed("a1")
    send("a2")
    OutboxMessage.objects.update(ordering_digest=bytes(16))
    assert publisher.run().published == 0
    pk = OutboxMessage.objects.get(event_id="a1").pk
    assert operator.post(f"{LIST}{pk}/delete/", {"post": "yes"}).status_code == 302
    publisher.run()
    assert event_ids() == ["a2"]


def test_what_was_published_is_not_deleted(operator, publisher):
    send("a")
    publisher.run()
    send("b")
    pk = OutboxMessage.objects.get(event_id="a").pk
    assert operator.post(f"{LIST}{pk}/delete/", {"post": "yes"}).status_code == 403
    act(operator, "delete_selected", "a", "b", post="yes")
    assert states() == {"a": "PUBLISHED", "b": "WAITING"}
    act(operator, "delete_selected", "b", post="yes")
    assert states() == {"a": "PUBLISHED"}


def test_what_is_published_while_it_is_discarded_stays_and_that_is_said(operator, monkeypatch, publisher):
    send("a")
    asked = OutboxMessage.objects.all()
    from idempotency.admin.messages import OutboxMessageAdmin

    delete = OutboxMessageAdmin.delete_queryset

    def publish_and_delete(self, request, queryset):
        in_a_thread(publisher.run)
        delete(self, request, queryset)

    monkeypatch.setattr(OutboxMessageAdmin, "delete_queryset", publish_and_delete)
    page = act(operator, "delete_selected", "a", post="yes").content.decode()
    assert "1 was published meanwhile." in page
    assert asked.get().state == State.PUBLISHED


def test_those_that_failed_are_tried_again_now(operator, publisher):
    failed("a", "b")
    send("c")
    assert publisher.run().published == 1
    page = act(operator, "try_again", "a", "c").content.decode()
    assert "1 message is tried again." in page
    assert states() == {"a": "WAITING", "b": "FAILED", "c": "PUBLISHED"}
    assert publisher.run().published == 1
