"""Views that ask for a token: who may use which, what the others hear, and what comes before."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from rest_framework.views import APIView

from idempotency.mixins import IdempotencyTokenMixin
from idempotency.models import IdempotencyToken
from tests.conftest import Caller, problem
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
on_each_medium = pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)

NEVER_ISSUED = "x" * 32
KINDS = ["consume", "restore", "above", "below"]


def orders():
    return Order.objects.count()


@on_each_medium
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_good_for_one_call(alice, alias, kind):
    path, token = f"/{alias}/{kind}/", alice.token(alias)
    assert alice.spend(path, token).status_code == 201
    assert problem(alice.spend(path, token), 409, "duplicate")
    assert problem(alice.spend(path, token, {"reference": "another payload"}), 409, "duplicate")
    assert orders() == 1


@on_each_medium
def test_a_duplicate_is_not_invited_to_retry(alice, alias):
    token = alice.token(alias)
    answers = [alice.spend(f"/{alias}/consume/", token) for _ in range(2)]
    assert "Retry-After" not in answers[1]


@on_each_medium
def test_a_duplicate_is_one_after_the_tokens_lifetime_too(alice, alias, token_options):
    token_options(alias, LIFETIME=timedelta(milliseconds=900))
    token, end = alice.token(alias), timezone.now() + timedelta(milliseconds=950)
    assert alice.spend(f"/{alias}/consume/", token).status_code == 201
    while timezone.now() < end:
        pass
    assert problem(alice.spend(f"/{alias}/consume/", token), 409, "duplicate")


@on_each_medium
def test_an_unused_token_expires(alice, alias, token_options):
    token_options(alias, LIFETIME=timedelta(milliseconds=20))
    token, end = alice.token(alias), timezone.now() + timedelta(milliseconds=50)
    while timezone.now() < end:
        pass
    assert problem(alice.spend(f"/{alias}/consume/", token), 410, "expired-token")
    assert orders() == 0


@on_each_medium
def test_a_token_that_was_never_issued_is_gone(alice, alias):
    assert problem(alice.spend(f"/{alias}/consume/", NEVER_ISSUED), 410, "expired-token")
    assert orders() == 0


@pytest.mark.parametrize("kind", [*KINDS, "plain", "async"])
def test_without_a_token_nothing_runs(alice, kind):
    assert problem(alice.spend(f"/default/{kind}/", None), 400, "missing-token")
    assert orders() == 0


@pytest.mark.parametrize(
    "malformed",
    ["", " ", "x", "x" * 31, "x" * 33, "x" * 31 + "=", "x y", '"' + "x" * 31, '""', "é" * 32, "x" * 5000],
)
def test_a_malformed_token_is_told_apart_from_an_expired_one(alice, malformed):
    assert problem(alice.spend("/default/consume/", malformed), 400, "invalid-token")


@on_each_medium
def test_a_token_sent_twice_is_refused_and_not_consumed(alice, alias):
    """Servers join repeated headers with commas."""
    token = alice.token(alias)
    for sent in (f"{token},{token}", f"{token}, {alice.token(alias)}", f'"{token}", "{token}"'):
        assert problem(alice.spend(f"/{alias}/consume/", sent), 400, "invalid-token")
    assert alice.spend(f"/{alias}/consume/", token).status_code == 201


def test_a_quoted_token_is_the_same_token(alice):
    token = alice.token()
    assert alice.spend("/default/consume/", f' "{token}" ').status_code == 201
    assert problem(alice.spend("/default/consume/", token), 409, "duplicate")


@on_each_medium
def test_anothers_token_is_invalid_and_stays_good_for_its_owner(alice, bob, alias):
    path, token = f"/{alias}/consume/", alice.token(alias)
    assert problem(bob.spend(path, token), 400, "invalid-token")
    assert alice.spend(path, token).status_code == 201
    assert problem(bob.spend(path, token), 400, "invalid-token")
    assert orders() == 1


@on_each_medium
def test_another_operations_token_is_invalid_and_stays_good_for_its_own(alice, alias):
    token = alice.token(alias, purpose="refund")
    assert problem(alice.spend(f"/{alias}/consume/", token), 400, "invalid-token")
    assert alice.spend(f"/{alias}/refunds/", token).status_code == 201
    assert problem(alice.spend(f"/{alias}/refunds/", alice.token(alias)), 400, "invalid-token")


@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_a_safe_method_needs_no_token_and_uses_none(alice, method):
    token = alice.token()
    assert alice.spend("/default/consume/", None, method=method).status_code < 300
    assert alice.spend("/default/consume/", token, method=method).status_code < 300
    assert alice.spend("/default/consume/", token).status_code == 201


def test_patch_needs_a_token_and_put_none(alice):
    assert problem(alice.spend("/default/consume/", None, method="patch"), 400, "missing-token")
    assert alice.spend("/default/consume/", None, method="put").status_code == 201


def test_where_none_is_required_one_that_is_brought_counts_all_the_same(alice):
    token = alice.token()
    assert [alice.spend("/default/optional/", sent).status_code for sent in (None, None)] == [201, 201]
    assert alice.spend("/default/optional/", token).status_code == 201
    assert problem(alice.spend("/default/optional/", token), 409, "duplicate")
    assert problem(alice.spend("/default/optional/", "x"), 400, "invalid-token")


def test_the_header_is_the_projects(alice, settings):
    settings.IDEMPOTENCY_TOKEN_HEADER = "X-Once"
    token = alice.token()
    assert problem(alice.spend("/default/consume/", token), 400, "missing-token")
    assert alice.spend("/default/consume/", None, headers={"X-Once": token}).status_code == 201
    again = alice.spend("/default/consume/", None, headers={"X-Once": token})
    assert problem(again, 409, "duplicate")


@on_each_medium
def test_every_refusal_is_a_problem_document_whatever_the_views_renderers_are(alice, bob, alias):
    path, used, of_alice = f"/{alias}/html/", alice.token(alias), alice.token(alias)
    alice.spend(path, used, {"do": "text"})
    assert problem(alice.spend(path, None), 400, "missing-token")
    assert problem(alice.spend(path, "x"), 400, "invalid-token")
    assert problem(bob.spend(path, of_alice), 400, "invalid-token")
    assert problem(alice.spend(path, used), 409, "duplicate")
    assert problem(alice.spend(path, NEVER_ISSUED), 410, "expired-token")


def test_nobodys_token_is_refused(users):
    assert problem(Caller(None).spend("/default/visitor/", NEVER_ISSUED), 403, "missing-principal")
    assert problem(Caller(None).spend("/default/plain/", NEVER_ISSUED), 403, "missing-principal")


# What comes first


@on_each_medium
def test_authentication_and_permissions_come_first_and_consume_nothing(alice, alias):
    token = alice.token(alias)
    assert Caller(None).spend(f"/{alias}/consume/", token).status_code == 403
    assert alice.spend(f"/{alias}/admin-only/", token).status_code == 403
    User.objects.filter(username="alice").update(last_name="revoked")
    assert alice.spend(f"/{alias}/revocable/", token).status_code == 403
    User.objects.filter(username="alice").update(last_name="")
    assert alice.spend(f"/{alias}/revocable/", token).status_code == 201


def test_who_may_not_call_hears_nothing_of_the_token(alice):
    for token in (None, "x", NEVER_ISSUED):
        assert alice.spend("/default/admin-only/", token)["Content-Type"] == "application/json"


@on_each_medium
def test_a_throttle_comes_first_and_consumes_nothing(alice, alias):
    path, token = f"/{alias}/throttled/", alice.token(alias)
    assert [alice.spend(path, None).status_code for _ in range(6)] == [400] * 5 + [429]
    assert alice.spend(path, token).status_code == 429
    assert alice.spend(f"/{alias}/consume/", token).status_code == 201


def test_a_form_that_cannot_be_read_is_a_400_and_not_a_missing_token(alice):
    response = alice.generic("POST", "/default/consume/", b"garbage", content_type="multipart/form-data")
    assert (response.status_code, response["Content-Type"]) == (400, "application/json")


def test_a_method_that_the_view_has_not_consumes_nothing(alice):
    token = alice.token()
    assert alice.spend("/default/tenant-tokens/", token, method="patch").status_code == 405
    assert alice.spend("/default/consume/", token).status_code == 201


def test_the_mixin_goes_first():
    with pytest.raises(TypeError, match=r"Put IdempotencyTokenMixin first among the bases of .*Late"):

        class Late(APIView, IdempotencyTokenMixin):
            pass


# What becomes known of it


def told(announced):
    return [(name, code) for name, mechanism, _, code in announced if mechanism == "token"]


@on_each_medium
@pytest.mark.parametrize(
    ("do", "end"), [("", "completed"), ("return-400", "completed"), ("return-500", "abandoned")]
)
@pytest.mark.parametrize("on_failure", ["consume", "restore"])
def test_a_use_and_its_end_are_announced(alice, announced, alias, on_failure, do, end):
    alice.spend(f"/{alias}/{on_failure}/", alice.token(alias), {"do": do})
    assert told(announced) == [("claimed", None), (end, None)]


@pytest.mark.parametrize(
    ("path", "end"),
    [("redis/consume", "completed"), ("redis/restore", "completed"), ("default/consume", "abandoned")],
)
@pytest.mark.usefixtures("atomic_requests")
def test_a_refusal_that_was_raised_ends_what_was_claimed_as_the_token_ends(alice, announced, path, end):
    token = alice.token(path.split("/")[0])
    assert alice.spend(f"/{path}/", token, {"do": "raise-400"}).status_code == 400
    assert told(announced) == [("claimed", None), (end, None)]
    assert (alice.spend(f"/{path}/", token).status_code == 201) == (end == "abandoned")


@on_each_medium
def test_refusals_are_announced_with_the_key_as_far_as_it_is_known(alice, announced, alias):
    path, token = f"/{alias}/consume/", alice.token(alias)
    alice.spend(path, token)
    announced.clear()
    for sent in (token, "x", None):
        alice.spend(path, sent)
    assert told(announced) == [
        ("refused", f"{code}") for code in ("duplicate", "invalid-token", "missing-token")
    ]
    assert [key is None for _, _, key, _ in announced] == [False, True, True]


@on_each_medium
@pytest.mark.parametrize("on_failure", ["consume", "restore"])
def test_no_token_is_in_the_log_or_the_signals(alice, bob, announced, caplog, alias, on_failure):
    caplog.set_level(logging.DEBUG)
    path, token = f"/{alias}/{on_failure}/", alice.token(alias)
    bob.spend(path, token)
    for do in ("raise", "", "", "return-500"):
        alice.spend(path, token, {"do": do})
    alice.spend(path, f"{token}, {token}")
    assert caplog.records
    assert announced
    # Its beginning names the holder's place in the store.
    assert token[8:] not in caplog.text + repr(announced)


@pytest.mark.skipif(connection.vendor != "sqlite", reason="once is enough")
def test_no_token_is_in_the_database(alice):
    token = alice.token()
    alice.spend("/default/consume/", token)
    assert token[8:] not in repr(IdempotencyToken.objects.values())
