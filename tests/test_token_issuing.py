"""Where clients fetch tokens: ``POST /idempotency/tokens/``."""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import import_module
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from idempotency.models import IdempotencyToken
from tests.conftest import Caller, problem
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
on_each_medium = pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)

FETCH = "/idempotency/tokens/"
WITHOUT_SESSIONS = ["django.middleware.common.CommonMiddleware"]


def is_left(token, path, caller, **extra):
    return caller.spend(path, token, **extra).status_code == 201


def test_a_token_comes_with_its_header_and_its_end(alice):
    response = alice.post(FETCH)
    assert (response.status_code, response["Cache-Control"]) == (201, "no-store")
    assert set(response.json()) == {"token", "header", "expires_at"}
    assert len(response.json()["token"]) == 32
    assert response.json()["header"] == "Idempotency-Token"
    left = datetime.fromisoformat(response.json()["expires_at"]) - timezone.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1, seconds=5)


def test_the_header_is_the_projects(alice, settings):
    settings.IDEMPOTENCY_TOKEN_HEADER = "X-Once"
    assert alice.post(FETCH).json()["header"] == "X-Once"


@on_each_medium
def test_a_count_answers_a_list_of_tokens_that_are_all_good(alice, alias):
    batch = alice.post(f"/{alias}/tokens/", {"count": 3}).json()
    assert len({issued["token"] for issued in batch}) == 3
    assert all(is_left(issued["token"], f"/{alias}/consume/", alice) for issued in batch)
    assert Order.objects.count() == 3


def test_a_count_of_one_is_a_list_too(alice):
    assert len(alice.post(FETCH, {"count": 1}).json()) == 1


@on_each_medium
def test_a_token_with_a_purpose_is_good_for_that_only(alice, alias):
    token = alice.token(alias, purpose="refund")
    assert problem(alice.spend(f"/{alias}/consume/", token), 400, "invalid-token")
    assert is_left(token, f"/{alias}/refunds/", alice)


@pytest.mark.parametrize("format", ["json", "multipart"])
def test_it_is_asked_in_json_or_as_a_form(alice, format):
    response = alice.post(FETCH, {"purpose": "refund", "count": 2}, format=format)
    assert [len(issued["token"]) for issued in response.json()] == [32, 32]


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        ({"count": 0}, "count", "greater than or equal to 1"),
        ({"count": -1}, "count", "greater than or equal to 1"),
        ({"count": 101}, "count", "less than or equal to 100"),
        ({"count": "many"}, "count", "valid integer"),
        ({"count": 1.5}, "count", "valid integer"),
        ({"count": None}, "count", "null"),
        ({"purpose": "x" * 101}, "purpose", "no more than 100 characters"),
        ({"purpose": None}, "purpose", "null"),
        ({"purpose": ["refund"]}, "purpose", "Not a valid string"),
        ({"purpose": "a\0b"}, "purpose", "Null characters"),
        ([], "non_field_errors", "Expected a dictionary"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(alice, data, field, message):
    response = alice.post(FETCH, data)
    assert response.status_code == 400
    assert message in str(response.json()[field])
    assert not IdempotencyToken.objects.exists()


def test_a_body_that_cannot_be_read_is_a_400(alice):
    assert alice.generic("POST", FETCH, b"{", content_type="application/json").status_code == 400


@on_each_medium
def test_a_count_above_the_limit_is_refused_and_issues_nothing(alice, alias, token_options):
    token_options(alias, LIMIT=5)
    response = alice.post(f"/{alias}/tokens/", {"count": 6})
    assert response.status_code == 400
    assert "5" in str(response.json()["count"])
    assert not IdempotencyToken.objects.exists()


@on_each_medium
def test_issuing_is_bounded_for_each_caller(alice, alias, token_options):
    token_options(alias, LIMIT=3)
    mine, other = ({"X-Tenant": str(uuid4())} for _ in range(2))
    path = f"/{alias}/tenant-tokens/"
    assert alice.post(path, {"count": 3}, headers=mine).status_code == 201
    response = alice.post(path, headers=mine)
    assert problem(response, 429, "too-many-tokens")
    assert int(response["Retry-After"]) >= 1
    assert alice.post(path, headers=other).status_code == 201


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_tokens_are_not_to_be_had_by_another_method(alice, method):
    assert getattr(alice, method)(FETCH).status_code == 405
    assert not IdempotencyToken.objects.exists()


def test_the_projects_own_permissions_hold_where_tokens_are_issued(alice):
    assert Caller(None).post(FETCH).status_code == 403
    assert alice.post("/admin-tokens/").status_code == 403
    User.objects.filter(username="alice").update(is_staff=True)
    assert alice.post("/admin-tokens/").status_code == 201


def test_the_projects_own_throttles_hold_where_tokens_are_issued(alice):
    statuses = [alice.post("/throttled-tokens/").status_code for _ in range(6)]
    assert statuses == [201] * 5 + [429]
    assert IdempotencyToken.objects.count() == 5


# Those who have not signed in


def visitor():
    return Caller(None)


@on_each_medium
@pytest.mark.parametrize("engine", ["db", "signed_cookies"])
def test_a_visitors_token_is_the_sessions(settings, alias, engine):
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    one, other = visitor(), visitor()
    token = one.post(f"/{alias}/visitor-tokens/").json()["token"]
    other.post(f"/{alias}/visitor-tokens/")
    assert problem(other.spend(f"/{alias}/visitor/", token), 400, "invalid-token")
    assert is_left(token, f"/{alias}/visitor/", one)
    assert problem(one.spend(f"/{alias}/visitor/", token), 409, "duplicate")


def test_a_visitors_token_survives_other_changes_of_the_session(settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    one = visitor()
    first = one.post("/default/visitor-tokens/").json()["token"]
    session = one.session
    session["cart"] = [1, 2, 3]
    session.save()
    one.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
    second = one.post("/default/visitor-tokens/").json()["token"]
    assert is_left(first, "/default/visitor/", one)
    assert is_left(second, "/default/visitor/", one)


def test_a_visitor_who_was_issued_nothing_has_no_tokens_to_bring():
    assert problem(visitor().spend("/default/visitor/", "x" * 32), 403, "missing-principal")


def test_who_signs_in_is_another_principal():
    one = visitor()
    token = one.post("/default/visitor-tokens/").json()["token"]
    one.username = "alice"
    assert problem(one.spend("/default/visitor/", token), 400, "invalid-token")
    one.username = None
    assert is_left(token, "/default/visitor/", one)


@pytest.mark.parametrize("path", ["/default/visitor-tokens/", "/redis/visitor-tokens/"])
def test_who_has_neither_user_nor_session_is_issued_nothing(settings, path):
    settings.MIDDLEWARE = WITHOUT_SESSIONS
    response = visitor().post(path)
    assert problem(response, 403, "missing-principal")
    assert "session" in response.json()["detail"]


def test_without_sessions_anyones_token_is_a_bearer_secret_where_the_views_allow_it(settings):
    settings.MIDDLEWARE = WITHOUT_SESSIONS
    token = visitor().post("/default/anyones-tokens/").json()["token"]
    assert is_left(token, "/default/anyones/", visitor())
    assert problem(visitor().spend("/default/anyones/", token), 409, "duplicate")


def test_issuing_starts_no_session_for_a_user(alice, settings):
    alice.post(FETCH)
    assert settings.SESSION_COOKIE_NAME not in alice.cookies
    store = import_module(settings.SESSION_ENGINE).SessionStore
    assert not store().model.objects.exists()


# Where a view says itself whose they are


@on_each_medium
def test_both_ends_may_scope_by_tenant(alice, bob, alias):
    mine, other = ({"X-Tenant": str(uuid4())} for _ in range(2))
    token = alice.post(f"/{alias}/tenant-tokens/", headers=mine).json()["token"]
    assert problem(alice.spend(f"/{alias}/tenant/", token, headers=other), 400, "invalid-token")
    assert problem(alice.spend(f"/{alias}/consume/", token), 400, "invalid-token")
    assert is_left(token, f"/{alias}/tenant/", bob, headers=mine)
