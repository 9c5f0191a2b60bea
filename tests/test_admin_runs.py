"""What the admin shows of operations that are not done."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from idempotency.models import IdempotencyRecord
from idempotency.steps.journal import DONE, REFUSED, Entry
from tests.test_admin import HOUR, LIST, State, abandoned, detail, keep, listed, reader, viewer

__all__ = ["reader", "viewer"]
pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_admin")]


def test_what_was_abandoned_is_shown_as_such(viewer):
    record = abandoned()
    assert "abandoned" in viewer.get(LIST).content.decode()
    assert "abandoned" in detail(viewer, record)
    IdempotencyRecord.objects.update(expires_at=timezone.now() + HOUR)
    assert "abandoned" not in viewer.get(LIST).content.decode()


def test_what_needs_a_decision_is_filtered(viewer):
    abandoned("abandoned")
    keep("unknown", state=State.UNKNOWN, expires=-HOUR)
    keep("asked-again-later", state=State.UNKNOWN)
    keep("at-work", state=State.RUNNING, fence=1)
    keep("done", expires=-HOUR)
    assert listed(viewer, decision="needed") == {"abandoned", "unknown"}


def test_the_list_reads_no_runs(viewer):
    abandoned()
    with CaptureQueriesContext(connection) as queries:
        viewer.get(LIST)
    assert not any("operation_run" in query["sql"] for query in queries)


def test_a_record_shows_its_run_and_to_who_may_read_it_what_was_done(reader):
    run = {"last_error": "Timeout: <b>no answer</b>", "attempts": 41, "arguments": '{"cents":70077}'}
    journal = [Entry("reserve", "a1", DONE, "<i>"), Entry("charge", "b2", REFUSED, ["Declined", ["card"]])]
    shown = detail(reader, abandoned(run=run, journal=journal))
    for text in ("pay", "auth.user 7", "41", "Timeout: &lt;b&gt;no answer&lt;/b&gt;", "70077", "refused"):
        assert text in shown
    assert "&quot;&lt;i&gt;&quot;" in shown
    assert "<i>" not in shown


def test_arguments_and_steps_are_not_even_read_for_others(viewer):
    record = abandoned(run={"arguments": '{"cents":70077}'})
    with CaptureQueriesContext(connection) as queries:
        shown = detail(viewer, record)
    assert "auth.user 7" in shown
    assert "70077" not in shown
    assert "reserve" not in shown
    assert not any("journal" in query["sql"] for query in queries)


@pytest.mark.parametrize(
    ("fields", "run", "shown"),
    [
        ({}, {}, "or the completer&#x27;s next pass"),
        ({}, {"resume_at": timezone.now()}, "or by the completer after"),
        ({}, {"name": ""}, "With its caller&#x27;s next request<"),
        ({"expires": HOUR}, {}, "By its owner, who is at work"),
        ({"state": State.UNKNOWN}, {}, "When it is known what became of it"),
        ({"state": State.FINISHED}, {}, "It is done. Its caller&#x27;s next request is answered."),
    ],
)
def test_it_is_said_when_it_is_gone_on_with(viewer, fields, run, shown):
    assert shown in detail(viewer, abandoned(run=run, **fields))


def test_a_run_that_has_not_begun_is_shown(reader):
    assert "What it has done so far" in detail(reader, abandoned(run={"arguments": ""}, journal=[]))
    assert "What it has done so far" not in detail(reader, keep("bare"))
