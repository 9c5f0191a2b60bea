"""Attacks that once got through."""

from __future__ import annotations

from enum import IntFlag
from io import BytesIO

import pytest
from django.contrib.auth.decorators import user_passes_test
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from rest_framework.decorators import api_view
from rest_framework.views import APIView

from idempotency.checks.databases import check_aliases
from idempotency.decorators import idempotent, idempotent_view
from idempotency.exceptions import FingerprintMismatch, MissingPrincipal
from idempotency.keys import principal_of
from idempotency.mixins import IdempotencyKeyMixin
from idempotency.models import IdempotencyRecord
from idempotency.policies import IdempotencyPolicy
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)


def send(path, body, *, length=None, content_type="application/json", query=""):
    """A request as a WSGI server hands it over, whose stream may end early."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body) if length is None else length),
        "HTTP_IDEMPOTENCY_KEY": "k",
        "HTTP_X_USER": "alice",
        "wsgi.input": BytesIO(body),
        "wsgi.errors": BytesIO(),
        "wsgi.url_scheme": "http",
    }
    answered = []
    response = WSGIHandler()(environ, lambda status, headers: answered.append((status, dict(headers))))
    b"".join(response)
    response.close()
    status, headers = answered[0]
    return int(status.split()[0]), headers


MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="reference"\r\n\r\n1000\r\n'
    b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nlong enough to be cut\r\n--b--\r\n'
)


@pytest.mark.parametrize(
    ("content_type", "body", "cut"),
    [
        ("application/json", b'{"reference": "1000"}', 8),
        ("application/x-www-form-urlencoded", b"reference=1000", 12),
        ("multipart/form-data; boundary=b", MULTIPART, 90),
        ("application/octet-stream", b"x" * 3_000_000, 2_900_000),
    ],
)
def test_half_a_payload_is_neither_run_nor_recorded(users, content_type, body, cut):
    path = "/uploads/" if "octet" in content_type else "/orders/"
    status, _ = send(path, body[:cut], length=len(body), content_type=content_type)
    assert status == 400
    assert (Order.objects.count(), IdempotencyRecord.objects.count()) == (0, 0)
    if "octet" not in content_type:
        assert send(path, body, content_type=content_type)[0] == 201


def test_a_layer_between_the_guard_and_the_api_view_is_not_taken_off():
    with pytest.raises(TypeError, match="directly above @api_view"):

        @idempotent_view
        @user_passes_test(lambda user: False)
        @api_view(["POST"])
        def view(request):
            """Never reached."""


def test_attributes_of_an_api_view_are_kept():
    @api_view(["POST"])
    def view(request):
        """Not called."""

    view._non_atomic_requests = {"default"}
    assert idempotent_view(view)._non_atomic_requests == {"default"}


def test_a_wrapper_removed_out_of_turn_does_not_poison_the_connection(alice):
    assert alice.once("/counting/").status_code == 201
    assert not connection.in_atomic_block
    assert connection.execute_wrappers == []
    assert alice.once("/orders/", key="other").status_code == 201


def test_the_mixin_behind_the_view_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="first among the bases"):
        type("View", (APIView, IdempotencyKeyMixin), {})


def test_a_replay_may_need_the_lock_that_the_queryset_takes(alice):
    order = Order.objects.create(reference="a", owner="alice")
    for _ in range(2):
        response = alice.once(f"/locking-set/{order.pk}/", {"reference": "b"}, method="patch")
        assert response.status_code == 200


def test_a_404_for_an_impossible_id_is_replayed(alice):
    for _ in range(2):
        assert alice.once("/order-set/abc/", {"reference": "b"}, method="patch").status_code == 404


@pytest.mark.skipif(connection.vendor != "mysql", reason="a statement that commits implicitly: InnoDB's DDL")
def test_what_a_view_committed_behind_the_guards_back_is_unknown_and_not_run_again(alice):
    assert alice.once("/implicit-commit/").status_code == 500
    for _ in range(2):
        refused = alice.once("/implicit-commit/")
        assert (refused.status_code, refused.json()["code"]) == (409, "outcome-unknown")
        assert "Retry-After" not in refused
        IdempotencyRecord.objects.update(expires_at="2020-01-01T00:00Z")
    assert Order.objects.count() == 1


@pytest.mark.skipif(connection.vendor != "mysql", reason="InnoDB's isolation level")
def test_reading_uncommitted_rows_is_a_check_error(monkeypatch):
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", "read uncommitted")
    assert [message.id for message in check_aliases()] == ["idempotency.E009"]


@pytest.mark.parametrize("scope", [User(username="unsaved"), ("tenant", None)])
def test_nobody_shares_the_scope_of_what_was_never_saved(scope):
    with pytest.raises(MissingPrincipal):
        principal_of(scope)


def test_an_unsaved_scope_is_refused(alice):
    response = alice.once("/unsaved-scope/")
    assert (response.status_code, response.json()["code"]) == (403, "missing-principal")


def test_a_proxy_of_a_user_is_the_same_principal(users, rf):
    class Proxy(User):
        class Meta:
            proxy = True
            app_label = "project"

    request = rf.post("/")
    request.user = Proxy.objects.get(username="alice")
    assert IdempotencyPolicy().get_idempotency_scope(request)[0] == "auth.user"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"query": "a=1&a=2"}, {"query": "a=2&a=1"}),
        ({"query": "a=%ff"}, {"query": "a=%fe"}),
        ({"content_type": "application/json"}, {"content_type": "application/json; charset=latin-1"}),
    ],
)
def test_what_the_view_would_read_otherwise_is_another_payload(users, first, second):
    assert send("/orders/", b"{}", **first)[0] == 201
    assert send("/orders/", b"{}", **second)[0] == 422


def test_flags_without_a_name_are_apart():
    class Flags(IntFlag):
        ONE = 1

    @idempotent(key="key")
    def operation(key, flags):
        return int(flags)

    assert operation("k", Flags(8)) == 8
    with pytest.raises(FingerprintMismatch):
        operation("k", Flags(16))


def test_another_operations_refusal_is_not_blamed_on_the_callers_key(alice):
    assert alice.once("/nesting/", {"amount": 1}).status_code == 201
    assert alice.once("/nesting/", {"amount": 2}, key="fresh").status_code == 500


@pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite says it as an operational error")
def test_a_missing_table_is_a_defect_and_not_an_outage(alice):
    with connection.schema_editor() as editor:
        editor.alter_db_table(IdempotencyRecord, "idempotency_record", "hidden")
    try:
        assert alice.once("/orders/").status_code == 500
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(IdempotencyRecord, "hidden", "idempotency_record")
