"""Releasing records in the admin, so that their operations may run again."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection

from idempotency.leases.decisions import seen_as
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps.journal import dumped
from tests.test_admin import LIST, State, abandoned, keep, select, signed_in, viewer

__all__ = ["viewer"]
pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_admin")]


@pytest.fixture
def releaser(client):
    return signed_in(client, "release_idempotencyrecord")


def confirm(client, *records, reason="It never reached the bank.", seen=None):
    seen = seen or [f"{record.pk}:{seen_as(record)}" for record in records]
    return select(client, *records, confirmed="yes", seen=seen, reason=reason)


def test_releasing_asks_first_and_warns(releaser):
    page = select(releaser, keep(state=State.UNKNOWN)).content.decode()
    assert "WILL run again" in page
    assert "outcome unknown" in page
    assert IdempotencyRecord.objects.count() == 1


def test_a_released_record_is_gone_and_the_reason_is_logged(releaser):
    record = keep(state=State.UNKNOWN)
    confirm(releaser, record)
    assert not IdempotencyRecord.objects.exists()
    entry = LogEntry.objects.get()
    assert entry.change_message == "Released (outcome unknown): It never reached the bank."
    assert (entry.user.username, entry.object_id, entry.object_repr) == (
        "operator",
        str(record.pk),
        str(record),
    )


def test_releasing_needs_a_reason(releaser):
    page = confirm(releaser, keep(state=State.UNKNOWN), reason="  ")
    assert b"This field is required" in page.content
    assert IdempotencyRecord.objects.exists()


def test_releasing_needs_its_permission(viewer):
    record = keep(state=State.UNKNOWN)
    assert b"release_records" not in viewer.get(LIST).content
    confirm(viewer, record)
    assert IdempotencyRecord.objects.exists()


def test_releasing_needs_the_permission_to_see_records(client):
    record = keep(state=State.UNKNOWN)
    signed_in(client, "release_idempotencyrecord")
    User.objects.get().user_permissions.remove(Permission.objects.get(codename="view_idempotencyrecord"))
    assert confirm(client, record).status_code == 403
    assert IdempotencyRecord.objects.exists()


def test_a_completed_record_is_not_released(releaser):
    record = keep()
    assert b"None of the selected operations can be released" in select(releaser, record).content
    confirm(releaser, record)
    assert IdempotencyRecord.objects.exists()
    assert not LogEntry.objects.exists()


def test_a_completed_record_is_released_where_the_setting_allows_it(releaser, settings):
    settings.IDEMPOTENCY_RELEASE_COMPLETED = True
    confirm(releaser, keep())
    assert not IdempotencyRecord.objects.exists()


def test_a_record_that_was_completed_while_the_operator_looked_is_not_released(releaser, settings):
    settings.IDEMPOTENCY_RELEASE_COMPLETED = True
    record = keep(state=State.RUNNING)
    select(releaser, record)
    IdempotencyRecord.objects.update(state=State.COMPLETED)
    page = releaser.get(confirm(releaser, record).url)
    assert b"changed since you looked" in page.content
    assert IdempotencyRecord.objects.exists()


def test_a_record_that_was_not_on_the_page_is_not_released(releaser):
    shown, other = keep("shown", state=State.UNKNOWN), keep("other", state=State.UNKNOWN)
    confirm(releaser, shown, other, seen=[f"{shown.pk}:{seen_as(shown)}", f"x:{seen_as(other)}", "7"])
    assert IdempotencyRecord.objects.get() == other


def test_an_operation_that_somebody_works_on_is_not_released(releaser):
    record = keep(state=State.RUNNING, fence=1)
    assert b"It is being worked on" in select(releaser, record).content
    assert b"It is being worked on" in releaser.get(confirm(releaser, record).url).content
    assert IdempotencyRecord.objects.exists()


def test_an_operation_that_was_finished_counts_as_completed(releaser, settings):
    record = keep(state=State.FINISHED, fence=1)
    confirm(releaser, record)
    assert IdempotencyRecord.objects.exists()
    settings.IDEMPOTENCY_RELEASE_COMPLETED = True
    confirm(releaser, record)
    assert not IdempotencyRecord.objects.exists()


def test_the_run_of_a_released_record_goes_with_it(releaser):
    released, other = abandoned("a"), abandoned("b")
    confirm(releaser, released)
    assert IdempotencyRecord.objects.get() == other
    assert OperationRun.objects.get().record == other


def test_releasing_names_the_steps_that_are_done(releaser):
    page = select(releaser, abandoned(), keep("bare", state=State.UNKNOWN)).content.decode()
    assert "reserve, perhaps charge" in page
    assert "Their effects STAY" in page
    assert "Their effects STAY" not in select(releaser, keep("other", state=State.UNKNOWN)).content.decode()


@pytest.mark.parametrize(
    "change",
    [
        lambda: IdempotencyRecord.objects.update(fence=2),
        lambda: OperationRun.objects.update(journal=dumped([])),
    ],
)
def test_an_operation_that_somebody_took_up_while_the_operator_looked_is_not_released(releaser, change):
    record = abandoned()
    select(releaser, record)
    change()
    assert b"changed since you looked" in releaser.get(confirm(releaser, record).url).content
    assert IdempotencyRecord.objects.exists()


def test_not_more_than_a_hundred_are_released_at_once(releaser):
    records = [keep(f"key-{number}", state=State.UNKNOWN) for number in range(101)]
    confirm(releaser, *records)
    assert IdempotencyRecord.objects.count() == 101


@pytest.mark.django_db(transaction=True)
def test_a_record_that_somebody_holds_is_left(releaser):
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip(f"{connection.display_name} has no SKIP LOCKED")
    record = keep(state=State.UNKNOWN)
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("SELECT id FROM idempotency_record WHERE id = %s FOR UPDATE", (record.pk,))
    page = releaser.get(confirm(releaser, record).url)
    other.rollback()
    other.close()
    assert b"being worked on" in page.content
    assert IdempotencyRecord.objects.exists()
