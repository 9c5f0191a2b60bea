"""What a guarded view answers, keeps and rolls back."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import connection

from idempotency.models import IdempotencyRecord
from tests.conftest import problem
from tests.project.models import Order
from tests.project.views import HOOKS_RUN, PDF

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]


def age_records():
    past = {"postgresql": "now() - interval '2 days'", "mysql": "UTC_TIMESTAMP(6) - INTERVAL 2 DAY"}
    sql = past.get(connection.vendor, "strftime('%Y-%m-%d %H:%M:%f', 'now', '-2 days')")
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE idempotency_record SET created_at = {sql}, expires_at = {sql}")


@pytest.mark.parametrize("path", ["/orders/", "/above/", "/below/", "/plain/", "/async/"])
def test_a_retry_gets_the_first_response_and_runs_nothing(alice, path):
    plain = path in ("/plain/", "/async/")
    if plain:
        alice.force_login(User.objects.get(username="alice"))
    extra = {"format": "multipart"} if plain else {}
    first = alice.once(path, {"reference": "a"}, **extra)
    second = alice.once(path, {"reference": "a"}, **extra)
    assert (first.status_code, "Idempotency-Replayed" in first) == (201, False)
    assert (second.status_code, second["Idempotency-Replayed"]) == (201, "true")
    assert first.content == second.content
    assert Order.objects.count() == 1


@pytest.mark.parametrize("path", ["/orders/", "/above/", "/below/"])
def test_a_missing_key_is_refused_before_anything_runs(alice, path):
    assert problem(alice.once(path, key=None), 400, "missing-key")
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)


def test_a_view_that_needs_no_key_runs_unguarded_without_one(alice):
    for _ in range(2):
        assert alice.once("/optional/", key=None).status_code == 201
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (2, 0)


@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_a_safe_method_ignores_the_key(alice, method):
    assert alice.once("/orders/", method=method).status_code == 200
    assert IdempotencyRecord.objects.count() == 0


def test_patch_is_guarded_and_put_is_not(alice):
    for method in ("patch", "put"):
        for _ in range(2):
            alice.once("/orders/", {"reference": method}, method=method)
    assert Order.objects.filter(reference="patch").count() == 1
    assert Order.objects.filter(reference="put").count() == 2


def test_delete_is_guarded_where_a_view_asks_for_it(alice):
    answers = [alice.once("/deleting/", method="delete").content for _ in range(2)]
    assert answers[0] == answers[1]
    assert Order.objects.count() == 1


def test_another_payload_is_refused_and_leaves_the_record_alone(alice):
    first = alice.once("/orders/", {"reference": "a"})
    before = IdempotencyRecord.objects.values().get()
    assert problem(alice.once("/orders/", {"reference": "b"}), 422, "fingerprint-mismatch")
    assert IdempotencyRecord.objects.values().get() == before
    assert alice.once("/orders/", {"reference": "a"}).content == first.content


def test_the_same_key_on_another_operation_is_another_key(alice):
    assert alice.once("/orders/").status_code == 201
    assert "Idempotency-Replayed" not in alice.once("/other-orders/")
    assert Order.objects.count() == 2


def test_the_same_key_on_another_object_of_the_route_is_another_payload(alice):
    assert alice.once("/orders/1/").status_code == 201
    assert problem(alice.once("/orders/2/"), 422, "fingerprint-mismatch")


def test_an_expired_record_lets_the_operation_run_again(alice):
    alice.once("/orders/", {"reference": "old"})
    age_records()
    assert "Idempotency-Replayed" not in alice.once("/orders/", {"reference": "new"})
    assert [order.reference for order in Order.objects.order_by("pk")] == ["old", "new"]
    assert IdempotencyRecord.objects.count() == 1


def test_an_expired_record_stays_when_the_new_operation_fails(alice):
    alice.once("/orders/", {"reference": "old"})
    age_records()
    assert alice.once("/orders/", {"do": "raise"}).status_code == 500
    assert alice.once("/orders/", {"reference": "new"}).status_code == 201
    assert IdempotencyRecord.objects.count() == 1


# What is stored, and what happens to the writes


@pytest.mark.parametrize(
    ("do", "status", "orders"),
    [
        ("return-400", 400, 1),
        ("return-303", 303, 1),
        ("raise-400", 400, 0),
        ("raise-418", 418, 0),
        ("empty", 204, 1),
        ("savepoint", 201, 1),
        ("swallow-400", 400, 0),
    ],
)
def test_an_answer_on_purpose_is_kept(alice, do, status, orders):
    first = alice.once("/orders/", {"do": do})
    assert first.status_code == status
    second = alice.once("/orders/", {"do": do})
    assert (second.status_code, second.content) == (status, first.content)
    assert second["Idempotency-Replayed"] == "true"
    assert Order.objects.count() == orders


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ("return-401", 401),
        ("return-429", 429),
        ("return-500", 500),
        ("raise-403", 403),
        ("raise", 500),
        ("swallow-201", 500),
        ("swallow-other-201", 500),
        ("set-rollback", 500),
        ("unrenderable", 500),
    ],
)
def test_what_is_not_stored_frees_the_key_and_keeps_no_writes(alice, do, status):
    for _ in range(2):
        response = alice.once("/orders/", {"do": do})
        assert response.status_code == status
        assert "Idempotency-Replayed" not in response
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)
    assert alice.once("/orders/", {"do": ""}).status_code == 201


def test_a_success_after_a_swallowed_error_is_never_recorded_without_its_writes(alice):
    alice.once("/orders/", {"do": "raw-swallow-201"})
    assert Order.objects.count() == IdempotencyRecord.objects.count()


def test_a_refusal_after_a_swallowed_error_is_recorded(alice):
    for _ in range(2):
        assert alice.once("/orders/", {"do": "raw-swallow-400"}).status_code == 400
    assert IdempotencyRecord.objects.count() == 1
    assert Order.objects.count() == (0 if connection.vendor == "postgresql" else 1)


def test_a_connection_that_the_view_closed_is_an_outage_and_not_a_success(alice):
    assert problem(alice.once("/orders/", {"do": "close"}), 503, "store-unavailable")
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)


def test_hooks_run_once_and_after_the_commit(alice):
    for _ in range(2):
        assert alice.once("/orders/", {"do": "hook"}).status_code == 201
    assert HOOKS_RUN == ["hook"]


def test_a_failing_hook_is_the_callers_500_and_the_retry_replays(alice):
    assert alice.once("/orders/", {"do": "failing-hook"}).status_code == 500
    assert alice.once("/orders/", {"do": "failing-hook"})["Idempotency-Replayed"] == "true"
    assert (Order.objects.count(), HOOKS_RUN) == (1, ["hook"])


def test_other_bases_keep_their_dispatch_and_finalize_and_handle_once(alice):
    first = alice.once("/audited/", {"do": "raise-400"})
    assert (first["X-Dispatched"], HOOKS_RUN) == ("1", ["handled", "finalized"])
    assert alice.once("/audited/", {"do": "raise"}, key="other").status_code == 500
    assert HOOKS_RUN == ["handled", "finalized", "handled"]
    replay = alice.once("/audited/", {"do": "raise-400"})
    assert replay["X-Dispatched"] == "1"
    assert HOOKS_RUN == ["handled", "finalized", "handled"]


# Bodies


@pytest.mark.parametrize("do", ["pdf", "text", "empty", "return-303"])
def test_a_body_comes_back_byte_for_byte(alice, do):
    first, second = (alice.once("/orders/", {"do": do}) for _ in range(2))
    assert second["Idempotency-Replayed"] == "true"
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert first.get("Content-Type") == second.get("Content-Type")
    assert first.get("Location") == second.get("Location")


def test_a_pdf_is_stored_as_its_bytes(alice):
    alice.once("/orders/", {"do": "pdf"})
    assert IdempotencyRecord.objects.get().response.body == PDF


@pytest.mark.parametrize("do", ["stream", "big"])
def test_a_body_that_is_not_kept_is_marked_omitted_and_never_run_again(alice, do):
    first = alice.once("/orders/", {"do": do})
    assert first.status_code == 200
    b"".join(first)
    replay = alice.once("/orders/", {"do": do})
    assert (replay.status_code, replay.content) == (200, b"")
    assert (replay["Idempotency-Replay"], replay["Idempotency-Replayed"]) == ("omitted", "true")
    assert replay["Location"] == "/l/"
    assert "ETag" not in replay
    assert "Content-Type" not in replay
    assert Order.objects.count() == 1


def test_a_view_can_keep_its_bodies_out(alice):
    assert alice.once("/bodiless/", {"reference": "secret"}).json()["reference"] == "secret"
    replay = alice.once("/bodiless/", {"reference": "secret"})
    assert (replay.status_code, replay.content, replay["Idempotency-Replay"]) == (201, b"", "omitted")
    assert IdempotencyRecord.objects.get().body is None


def test_secrets_are_nowhere_at_rest(alice):
    first = alice.once("/orders/", {"do": "cookie"}, headers={"Authorization": "Bearer secret-token"})
    assert first.cookies
    replay = alice.once("/orders/", {"do": "cookie"}, headers={"Authorization": "Bearer secret-token"})
    assert not replay.cookies
    assert "Authorization" not in replay
    assert "secret" not in str(IdempotencyRecord.objects.values().get())


def test_extra_headers_are_replayed_when_asked_for(alice, settings):
    settings.IDEMPOTENCY_REPLAY_HEADERS = ["X-Kept", "Set-Cookie"]
    for _ in range(2):
        response = alice.once("/orders/", {"do": "cookie"})
    assert (response["X-Kept"], response["Location"]) == ("yes", "/orders/1/")
    assert not response.cookies


def test_a_dropped_body_is_a_result_that_expired(alice):
    alice.once("/orders/")
    IdempotencyRecord.objects.drop_bodies()
    response = alice.once("/orders/")
    assert problem(response, 409, "result-expired")
    assert "Retry-After" not in response
    assert Order.objects.count() == 1


# Who sees what


def test_users_are_apart(alice, bob):
    alice.once("/orders/", {"reference": "a"})
    response = bob.once("/orders/", {"reference": "a"})
    assert "Idempotency-Replayed" not in response
    assert Order.objects.count() == 2


def test_a_caller_without_a_principal_is_refused(users, client):
    response = client.post("/nobody/", {}, headers={"Idempotency-Key": "k"})
    assert problem(response, 403, "missing-principal")
    assert Order.objects.count() == 0


def test_anonymous_callers_share_a_scope_where_the_view_allows_it(client):
    for _ in range(2):
        response = client.post("/anonymous/", {}, headers={"Idempotency-Key": "bearer-secret"})
    assert response["Idempotency-Replayed"] == "true"
    assert "bearer-secret" not in str(IdempotencyRecord.objects.values().get())


def test_an_anonymous_caller_and_a_user_are_apart(users, alice, client):
    client.post("/anonymous/", {}, headers={"Idempotency-Key": "k"})
    assert "Idempotency-Replayed" not in alice.once("/anonymous/", {}, key="k", format="multipart")


def test_a_view_may_scope_by_tenant(alice, bob):
    alice.once("/tenant/", headers={"X-Tenant": "1"})
    assert "Idempotency-Replayed" in bob.once("/tenant/", headers={"X-Tenant": "1"})
    assert "Idempotency-Replayed" not in bob.once("/tenant/", headers={"X-Tenant": "2"})


def test_a_view_may_take_the_key_from_the_payload(alice):
    for _ in range(2):
        response = alice.once("/business-key/", {"event": "evt-1"}, key=None)
    assert response["Idempotency-Replayed"] == "true"
    assert problem(alice.once("/business-key/", {"event": 7}, key=None), 400, "invalid-key")
    assert problem(alice.once("/business-key/", {}, key=None), 400, "missing-key")


def test_a_revoked_permission_is_refused_before_the_replay(alice):
    assert alice.once("/revocable/").status_code == 201
    User.objects.filter(username="alice").update(last_name="revoked")
    assert alice.once("/revocable/").status_code == 403


@pytest.mark.parametrize(("path", "status"), [("order-set", 403), ("hidden-set", 404)])
def test_a_revoked_object_permission_is_refused_before_the_replay(alice, path, status):
    order = Order.objects.create(reference="a", owner="alice")
    url = f"/{path}/{order.pk}/"
    first = alice.once(url, {"reference": "b"}, method="patch")
    assert first.status_code == 200
    assert alice.once(url, {"reference": "b"}, method="patch").content == first.content
    Order.objects.update(owner="bob")
    refused = alice.once(url, {"reference": "b"}, method="patch")
    assert refused.status_code == status
    assert b"reference" not in refused.content


def test_a_delete_answers_its_retry_although_the_object_is_gone(alice):
    order = Order.objects.create(reference="a", owner="alice")
    answers = [alice.once(f"/order-set/{order.pk}/", method="delete").status_code for _ in range(2)]
    assert answers == [204, 204]


def test_a_flood_of_keys_is_bounded_by_the_views_throttle(alice):
    statuses = [alice.once("/throttled/", key=f"k{n}").status_code for n in range(20)]
    assert statuses == [201] * 5 + [429] * 15
    assert IdempotencyRecord.objects.count() == 5


def test_a_refusal_names_the_documentation_where_one_is_configured(alice, settings):
    settings.IDEMPOTENCY_DOCUMENTATION_URL = "https://example.com/idempotency"
    response = alice.once("/orders/", key=None)
    assert response["Link"] == '<https://example.com/idempotency>; rel="describedby"'
    assert response.json()["type"] == "https://example.com/idempotency#missing-key"


# Uploads


def send(caller, boundary, content):
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body += content + f"\r\n--{boundary}--\r\n".encode()
    return caller.generic(
        "POST",
        "/uploads/",
        body,
        content_type=f"multipart/form-data; boundary={boundary}",
        headers={"Idempotency-Key": "k"},
    )


def test_an_upload_with_a_new_boundary_is_the_same_payload(alice):
    first = send(alice, "one", b"a" * 100)
    assert first.json() == {"sizes": {"file": 100}, "fields": ["note"]}
    assert send(alice, "two", b"a" * 100)["Idempotency-Replayed"] == "true"
    assert problem(send(alice, "two", b"b" * 100), 422, "fingerprint-mismatch")


@pytest.mark.parametrize("size", [2_621_440 + 1, 6_000_000])
def test_an_upload_larger_than_the_memory_limit_is_guarded_too(alice, size):
    assert send(alice, "one", b"a" * size).json()["sizes"] == {"file": size}
    assert send(alice, "two", b"a" * size)["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_raw_upload_reaches_the_view_whole(alice, size):
    def send_raw(content):
        headers = {"Idempotency-Key": "k", "Content-Disposition": "attachment; filename=a.bin"}
        return alice.generic(
            "POST", "/uploads/", content, content_type="application/octet-stream", headers=headers
        )

    assert send_raw(b"a" * size).json()["sizes"] == {"file": size}
    assert send_raw(b"a" * size)["Idempotency-Replayed"] == "true"
    assert problem(send_raw(b"a" * (size - 1) + b"b"), 422, "fingerprint-mismatch")


def test_a_malformed_body_is_the_views_own_error_and_burns_no_key(alice):
    headers = {"Idempotency-Key": "k"}
    bad = alice.generic("POST", "/orders/", b"{", content_type="application/json", headers=headers)
    assert bad.status_code == 400
    assert Order.objects.count() == 0


# Statements


def test_a_guarded_request_costs_this_many_statements(alice, django_assert_num_queries):
    """Fresh: user, find, BEGIN, claim, order, record, COMMIT. Replay: user, find."""
    with django_assert_num_queries(7):
        alice.once("/orders/", {"reference": "a"})
    with django_assert_num_queries(2):
        alice.once("/orders/", {"reference": "a"})
