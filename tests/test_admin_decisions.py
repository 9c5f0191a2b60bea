"""How an operator decides in the admin what became of an operation."""

import json
import logging

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission, User

from idempotency.leases import decisions
from idempotency.leases.decisions import seen_as
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps.journal import DONE, Entry, loaded
from tests.test_admin import HOUR, LIST, State, abandoned, detail, keep, signed_in, viewer

__all__ = ["viewer"]
pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_admin")]

REASON = "The bank says so."
ANSWER = {"decision": "answered", "status": "201", "content_type": "application/json", "body": '{"id":1}'}


@pytest.fixture
def decider(client):
    return signed_in(client, "decide_idempotencyrecord")


def page(client, record):
    return client.get(f"{LIST}{record.pk}/decide/").content.decode()


def decided(client, record, seen=None, **fields):
    seen = seen or seen_as(IdempotencyRecord.objects.select_related("run").get(pk=record.pk))
    return client.post(
        f"{LIST}{record.pk}/decide/", {"seen": seen, "reason": REASON, **fields}, follow=True
    ).content.decode()


def choose(client, *records):
    return client.post(LIST, {"action": "decide_record", "_selected_action": [each.pk for each in records]})


def is_untouched(record):
    """Whether nothing was written."""
    now = IdempotencyRecord.objects.get(pk=record.pk)
    same = (now.state, now.fence, now.expires_at) == (record.state, record.fence, record.expires_at)
    return same and not LogEntry.objects.exists()


def test_deciding_needs_its_permission(viewer):
    record = abandoned()
    assert b"decide_record" not in viewer.get(LIST).content
    assert "/decide/" not in detail(viewer, record)
    choose(viewer, record)
    assert viewer.get(f"{LIST}{record.pk}/decide/").status_code == 403
    decided(viewer, record, **ANSWER)
    assert is_untouched(record)


def test_deciding_needs_the_permission_to_see_records(decider):
    record = abandoned()
    User.objects.get().user_permissions.remove(Permission.objects.get(codename="view_idempotencyrecord"))
    decided(decider, record, **ANSWER)
    assert is_untouched(record)


def test_one_is_decided_at_a_time(decider):
    record, other = abandoned("a"), abandoned("b")
    assert choose(decider, record).url == f"{LIST}{record.pk}/decide/"
    assert b"Select one record" in decider.get(choose(decider, record, other).url).content
    assert f"{LIST}{record.pk}/decide/" in detail(decider, record)


def test_a_record_that_is_gone_is_not_found(decider):
    assert decider.get(f"{LIST}7/decide/").status_code == 404


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"state": State.COMPLETED}, "It was done"),
        ({"expires": HOUR}, "It is being worked on"),
    ],
)
def test_what_is_done_or_being_worked_on_is_not_decided(decider, fields, why):
    record = abandoned(**fields)
    shown = page(decider, record)
    assert why in shown
    assert 'name="reason"' not in shown
    assert "/decide/" not in detail(decider, record)
    assert "Nothing was decided" in decided(decider, record, **ANSWER)
    assert is_untouched(record)


def test_the_page_offers_what_can_be_decided(decider):
    def offered(record):
        choices = decider.get(f"{LIST}{record.pk}/decide/").context["form"].fields["decision"].choices
        return [choice for choice, __ in choices]

    assert offered(keep("bare", state=State.UNKNOWN)) == ["answered", "returned"]
    assert offered(abandoned("done", journal=[Entry("reserve", "a1", DONE)])) == ["answered", "returned"]
    calls = ["call-done", "call-not-done"]
    assert offered(abandoned("call")) == ["answered", "returned", *calls]
    assert offered(abandoned("function", run={"is_answer": True})) == ["returned", *calls]


def test_the_page_shows_what_is_known_always_escaped(decider):
    run = {"last_error": "<b>broken</b>", "arguments": '{"name":"<script>"}'}
    record = abandoned(run=run, journal=[Entry("<i>call</i>", "b2", "begun")])
    for shown in (page(decider, record), decided(decider, record, decision="call-done", result="<u>")):
        assert "The call &lt;i&gt;call&lt;/i&gt; was done" in shown
        assert "&lt;b&gt;broken&lt;/b&gt;" in shown
        assert not any(tag in shown for tag in ("<i>call", "<b>broken", "<script>&quot;", "<u>"))


def test_arguments_and_steps_are_on_the_page_of_who_may_read_them(client):
    record = abandoned(run={"arguments": '{"cents":70077}'})
    decider = signed_in(client, "decide_idempotencyrecord")
    assert "70077" not in page(decider, record)
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_stored_response"))
    assert "70077" in page(decider, record)


def test_the_whole_operation_is_marked_done_with_its_answer(decider):
    record = abandoned()
    shown = decided(decider, record, **{**ANSWER, "body": '{\r\n"id": 1\r\n}'})
    assert "It is decided: the whole operation was done, and is answered with 201." in shown
    now = IdempotencyRecord.objects.get()
    assert (now.state, now.fence, now.response.status) == (State.COMPLETED, 2, 201)
    assert (now.response.body, now.response.headers) == (
        b'{\n"id": 1\n}',
        {"Content-Type": "application/json"},
    )
    assert not OperationRun.objects.exists()


def test_an_answer_without_a_body_has_no_content_type(decider):
    decided(decider, abandoned(), **{**ANSWER, "status": "204", "body": ""})
    response = IdempotencyRecord.objects.get().response
    assert (response.status, response.body, response.headers) == (204, b"", {})


def test_a_functions_result_is_given(decider):
    decided(decider, abandoned(run={"is_answer": True}), decision="returned", result='{"total": [1, 2]}')
    response = IdempotencyRecord.objects.get().response
    assert (response.status, response.result) == (None, {"total": [1, 2]})


def test_a_call_is_marked_done_with_its_result(decider):
    decided(decider, abandoned(), decision="call-done", result='{"id": 7}')
    now = IdempotencyRecord.objects.get()
    assert (now.state, now.fence) == (State.RUNNING, 2)
    entry = loaded(now.run.journal)[-1]
    assert (entry.step, entry.state, entry.value) == ("charge", DONE, {"id": 7})


def test_a_call_is_to_be_made_again(decider):
    decided(decider, abandoned(), decision="call-not-done")
    assert [entry.step for entry in loaded(OperationRun.objects.get().journal)] == ["reserve"]


@pytest.mark.parametrize(
    ("decision", "written"),
    [
        (ANSWER, "the whole operation was done, and is answered with 201"),
        (
            {"decision": "returned", "result": "70077"},
            "the whole operation was done, and its result is given",
        ),
        ({"decision": "call-done", "result": "7"}, "the call charge was done, and its result is given"),
        ({"decision": "call-not-done"}, "the call charge was not done, and is made again"),
    ],
)
def test_a_decision_is_logged_with_its_reason_and_without_the_answer(decider, caplog, decision, written):
    record = abandoned()
    with caplog.at_level(logging.WARNING, "idempotency"):
        decided(decider, record, **decision)
    entry = LogEntry.objects.get()
    assert entry.change_message == f"Decided (running): {written}: {REASON}"
    assert (entry.user.username, entry.action_flag, entry.object_id) == ("operator", CHANGE, str(record.pk))
    assert caplog.messages == [f"decided by user {entry.user_id} about {record}: {written}"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"reason": " "}, "This field is required"),
        ({"decision": ""}, "This field is required"),
        ({"decision": "call-undone"}, "Select a valid choice"),
        ({"status": ""}, "Give one from 200 to 499"),
        ({"status": "500"}, "Give one from 200 to 499"),
        ({"status": "401"}, "Give one from 200 to 499"),
        ({"status": "ok"}, "Enter a whole number"),
        ({"status": "204"}, "has no body"),
        ({"content_type": ""}, "Give a media type"),
        ({"content_type": "text/html\nX-Other: 1"}, "Give a media type"),
        ({"content_type": "text/plain; charset=latin-1"}, "Give a media type"),
        ({"content_type": "application/problem+json", "body": "{"}, "This is no JSON"),
        ({"body": "NaN"}, "This is no JSON"),
        ({"body": '{"a":1,"a":2}'}, "a name occurs twice"),
        ({"body": "[" * 100_000}, "This is no JSON"),
        ({"body": json.dumps("x" * 100)}, "longer than IDEMPOTENCY_MAX_STORED_BODY"),
        ({"result": "7"}, "leave it empty"),
        ({"decision": "call-not-done"}, "leave it empty"),
        ({"decision": "returned", "status": "", "body": ""}, "This is no JSON"),
        ({"decision": "call-done", "status": "", "body": "", "result": "1e999"}, "This is no JSON"),
        ({"decision": "call-done", "status": "", "body": "", "result": "{'a': 1}"}, "This is no JSON"),
    ],
)
def test_what_cannot_be_kept_is_an_error_on_the_page_and_nothing_is_written(decider, settings, fields, error):
    settings.IDEMPOTENCY_MAX_STORED_BODY = 100_000 if "[[" in fields.get("body", "") else 100
    record = abandoned()
    shown = decided(decider, record, **{**ANSWER, **fields})
    assert error in shown
    assert "Nothing was decided" in shown
    assert is_untouched(record)


def test_what_was_taken_up_while_the_operator_looked_is_not_decided(decider):
    record = abandoned()
    seen = seen_as(record)
    IdempotencyRecord.objects.update(fence=2)
    record.refresh_from_db()
    assert "has changed since you looked" in decided(decider, record, seen, **ANSWER)
    assert is_untouched(record)


def test_what_is_taken_up_at_the_very_moment_is_not_decided(decider, monkeypatch):
    record = keep(state=State.UNKNOWN)

    def taken_up():
        IdempotencyRecord.objects.update(fence=7)
        return HOUR

    monkeypatch.setattr(decisions.conf, "retention", taken_up)
    assert "changed since it was looked at" in decided(decider, record, **ANSWER)
    assert is_untouched(record)
