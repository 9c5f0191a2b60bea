from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone

from idempotency.admin import filters
from idempotency.keys import ANONYMOUS, ScopedKey
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.responses import BodyState, StoredResponse
from idempotency.steps.journal import BEGUN, DONE, Entry, dumped

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]

State = IdempotencyRecord.State
LIST = "/admin/idempotency/idempotencyrecord/"
HOUR = timedelta(hours=1)
JSON = {"Content-Type": "application/json"}


def keep(
    key="key-1", *, age=timedelta(0), expires=HOUR, principal=("auth.user", "1"), response=None, **fields
):
    scoped = ScopedKey(principal, "POST orders/", key)
    response = response or StoredResponse(201, JSON, b"{}")
    return IdempotencyRecord.objects.create(
        key_digest=scoped.key_digest,
        scope=scoped.scope,
        principal=scoped.principal_digest,
        key=scoped.kept_key,
        operation=scoped.operation,
        fingerprint=bytes(17),
        created_at=timezone.now() - age,
        expires_at=timezone.now() + expires,
        status=response.status,
        headers=response.headers_column,
        body=response.body,
        body_state=response.body_state,
        **{"state": State.COMPLETED, **fields},
    )


JOURNAL = [Entry("reserve", "a1", DONE, {"order": 17}), Entry("charge", "b2", BEGUN)]


def abandoned(key="key-1", *, journal=JOURNAL, run=(), **fields):
    """A record in mode "lease" whose owner is gone, and its run."""
    record = keep(key, **{"state": State.RUNNING, "expires": -HOUR, "fence": 1, **fields})
    facts = {"name": "pay", "arguments": '{"cents":700}', "principal_kind": "auth.user", "principal_id": "7"}
    facts |= {"steps_digest": bytes(16), "retention": HOUR, "journal": dumped(journal), **dict(run)}
    OperationRun.objects.create(record=record, **facts)
    return record


def signed_in(client, *permissions, views=("view_idempotencyrecord",)):
    user = User.objects.create(username="operator", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=[*views, *permissions]))
    client.force_login(user)
    return client


@pytest.fixture
def viewer(client):
    return signed_in(client)


@pytest.fixture
def reader(client):
    return signed_in(client, "view_stored_response")


def listed(client, **query):
    return {record.key for record in client.get(LIST, query).context["cl"].result_list}


def detail(client, record):
    return client.get(f"{LIST}{record.pk}/change/").content.decode()


def select(client, *records, **fields):
    return client.post(
        LIST, {"action": "release_records", "_selected_action": [record.pk for record in records], **fields}
    )


def test_nothing_can_be_added_changed_or_deleted_by_a_superuser(admin_client):
    record = keep()
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{record.pk}/change/", {"key": "other"}).status_code == 403
    assert admin_client.post(f"{LIST}{record.pk}/delete/", {"post": "yes"}).status_code == 403
    select(admin_client, record, action="delete_selected", post="yes")
    assert IdempotencyRecord.objects.get().key == "key-1"


def test_an_exact_key_is_found_whoever_sent_it(viewer):
    keep("key-1")
    keep("key-10")
    assert listed(viewer, q="key-1") == {"key-1"}
    assert listed(viewer, q="key") == set()


def test_an_anonymous_key_is_found_and_shown_by_its_digest(viewer):
    record = keep("secret-key", principal=ANONYMOUS)
    page = viewer.get(LIST, {"q": "secret-key"})
    assert f"anonymous {record.key_digest.hex()[:12]}" in page.content.decode()
    assert b"secret-key</" not in page.content


@pytest.mark.parametrize(
    ("age", "found"),
    [
        ("hour", {"now"}),
        ("day", {"now", "hours"}),
        ("week", {"now", "hours", "days", "expired"}),
        ("older", {"weeks"}),
        ("expired", {"expired"}),
    ],
)
def test_records_are_filtered_by_age(viewer, age, found):
    keep("now")
    keep("hours", age=2 * HOUR)
    keep("days", age=timedelta(days=2))
    keep("weeks", age=timedelta(days=8))
    keep("expired", age=timedelta(days=3), expires=-HOUR)
    assert listed(viewer, age=age) == found


def test_records_are_filtered_by_state(viewer):
    keep("done")
    keep("unknown", state=State.UNKNOWN)
    assert listed(viewer, state__exact=State.UNKNOWN) == {"unknown"}


@pytest.mark.parametrize("lookup", ["body__startswith", "headers__contains", "fingerprint", "status"])
def test_the_address_cannot_ask_for_what_is_hidden(viewer, lookup):
    keep()
    assert viewer.get(LIST, {lookup: "2"}).status_code in (302, 400)


def test_the_newest_come_first(viewer):
    keep("older")
    keep("newer", age=HOUR)
    assert [record.key for record in viewer.get(LIST).context["cl"].result_list] == ["newer", "older"]


def test_a_large_table_is_not_counted_whole(viewer, monkeypatch):
    monkeypatch.setattr(filters, "MOST_COUNTED", 3)
    for number in range(5):
        keep(f"key-{number}")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        page = viewer.get(LIST)
    assert page.context["cl"].result_count == 3
    counts = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert len(counts) == 1
    assert "LIMIT 3" in counts[0]


def test_the_list_reads_no_responses_and_removes_no_duplicates(viewer):
    keep(response=StoredResponse(201, JSON, b"the-body"))
    with CaptureQueriesContext(connection) as queries:
        viewer.get(LIST, {"q": "key-1", "age": "hour", "state__exact": "2"})
    sql = " ".join(query["sql"] for query in queries)
    assert "DISTINCT" not in sql
    assert "headers" not in sql
    assert not any(name in sql for name in ('"body"', "`body`"))


def test_a_response_is_shown_to_who_may_read_it(reader):
    page = detail(reader, keep(response=StoredResponse(201, {**JSON, "ETag": '"7"'}, b'{"total":[1,2]}')))
    assert "ETag: &quot;7&quot;" in page
    assert "{\n  &quot;total&quot;: [\n    1," in page


def test_a_response_is_not_even_read_for_others(viewer):
    record = keep(response=StoredResponse(201, {**JSON, "ETag": "tagged"}, b'"the-body"'))
    with CaptureQueriesContext(connection) as queries:
        page = detail(viewer, record)
    assert "idempotency.view_stored_response" in page
    assert "the-body" not in page
    assert "tagged" not in page
    assert not any("headers" in query["sql"] for query in queries)


@pytest.mark.parametrize(
    ("headers", "body", "shown"),
    [
        (
            {"Content-Type": "text/html"},
            b"<script>alert(1)</script>",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
        ),
        ({"Content-Type": "text/plain; charset=latin-1"}, b"caf\xe9", "café"),
        ({"Content-Type": "text/plain; charset=nonsense"}, "café".encode(), "café"),
        ({"Content-Type": "text/plain"}, b"\xff", "\ufffd"),
        ({"Content-Type": "application/pdf"}, b"%PDF-\xff", "6 bytes of application/pdf"),
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip"}, b"\x1f\x8b", "2 bytes of text/plain"),
        ({}, b"bare", "4 bytes of no type"),
        (JSON, b'{"price":1.50}', "{&quot;price&quot;:1.50}"),
        (JSON, b'{"a":1,"a":2}', "{&quot;a&quot;:1,&quot;a&quot;:2}"),
        (JSON, b"[" * 100_000, "[[["),
        (JSON, b"{broken", "{broken"),
    ],
)
def test_a_body_is_shown_as_what_it_is(reader, headers, body, shown):
    assert shown in detail(reader, keep(response=StoredResponse(200, headers, body)))


def test_a_function_result_is_shown_as_json(reader):
    assert "[\n  1\n]" in detail(reader, keep(response=StoredResponse(body=b"[1]")))


def test_a_long_body_is_cut(reader):
    text = {"Content-Type": "text/plain"}
    page = detail(reader, keep(response=StoredResponse(200, text, b"x" * 70_000)))
    assert "and 4464 more characters" in page
    assert "x" * 65_536 in page
    assert "x" * 65_537 not in page


@pytest.mark.parametrize("body_state", [BodyState.OMITTED, BodyState.DROPPED])
def test_a_body_that_is_not_stored_is_said_to_be_missing(reader, body_state):
    page = detail(reader, keep(response=StoredResponse(200, {}, None, body_state)))
    assert f"Not stored: {body_state.label}" in page


def test_records_are_read_where_guards_write_them(rf, settings):
    settings.IDEMPOTENCY_DATABASE = "elsewhere"
    assert admin.site.get_model_admin(IdempotencyRecord).get_queryset(rf.get("/")).db == "elsewhere"
