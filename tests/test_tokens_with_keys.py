"""Views that ask for a key and a token: the record answers retries, the token lets in what would run."""

from __future__ import annotations

from functools import wraps

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from rest_framework.decorators import api_view
from rest_framework.response import Response

from idempotency.decorators import idempotent_view, require_idempotency_token
from idempotency.models import IdempotencyRecord
from tests.conftest import problem
from tests.project.models import Order
from tests.project.views import OrderViewSet

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
on_each_medium = pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)
MIXINS = ["key-token", "token-key"]
DECORATORS = [f"{view}-{order}" for view in ("plain", "async", "above", "below") for order in MIXINS]
in_each_order = pytest.mark.parametrize("kind", [*MIXINS, *DECORATORS])


@pytest.fixture
def order(alice, alias):
    """``order(kind, token, key, **payload)``: a request with both."""
    alice.force_login(User.objects.get(username="alice"))

    def post(kind, token, key="key-1", **payload):
        headers = {"Idempotency-Token": token} if token is not None else {}
        return alice.once(f"/{alias}/{kind}/", payload, key=key, headers=headers, format="multipart")

    return post


@pytest.fixture
def token(alice, alias):
    return alice.token(alias)


def written():
    return Order.objects.count(), IdempotencyRecord.objects.count()


def is_replay(response):
    return (response.status_code, response.get("Idempotency-Replayed")) == (201, "true")


@on_each_medium
@in_each_order
def test_a_retry_is_answered_by_the_record_whatever_token_it_brings(order, token, kind):
    first = order(kind, token)
    assert (first.status_code, is_replay(first)) == (201, False)
    for again in (token, None, "malformed", "x" * 32):
        replay = order(kind, again)
        assert is_replay(replay)
        assert replay.content == first.content
    assert written() == (1, 1)


@on_each_medium
@in_each_order
def test_what_would_run_needs_key_and_token(order, token, kind):
    assert problem(order(kind, token, key=None), 400, "missing-key")
    assert problem(order(kind, None), 400, "missing-token")
    assert written() == (0, 0)
    assert order(kind, token).status_code == 201


@on_each_medium
@in_each_order
def test_a_used_token_is_a_duplicate_under_another_key(order, token, alice, alias, kind):
    assert order(kind, token, key="key-1").status_code == 201
    assert problem(order(kind, token, key="key-2"), 409, "duplicate")
    assert written() == (1, 1)
    assert order(kind, alice.token(alias), key="key-2").status_code == 201


@on_each_medium
@in_each_order
def test_after_a_failure_the_same_key_and_token_may_come_again(order, token, kind):
    for do in ("raise", "return-500", "raise"):
        assert order(kind, token, do=do).status_code == 500
    assert written() == (0, 0)
    assert order(kind, token).status_code == 201
    assert is_replay(order(kind, token))
    assert problem(order(kind, token, key="key-2"), 409, "duplicate")
    assert written() == (1, 1)


@on_each_medium
@pytest.mark.parametrize("kind", MIXINS)
def test_the_tokens_refusals_are_not_recorded(order, token, alice, bob, alias, kind):
    used = alice.token(alias)
    order(kind, used, key="other")
    refused = [(None, 400), ("x", 400), (bob.token(alias), 400), (used, 409), ("x" * 32, 410)]
    assert [order(kind, sent).status_code for sent, _ in refused] == [status for _, status in refused]
    assert written() == (1, 1)
    assert order(kind, token).status_code == 201


@on_each_medium
def test_another_payload_under_the_key_is_a_mismatch_before_it_is_a_duplicate(order, token):
    order("key-token", token, reference="a")
    assert problem(order("key-token", token, reference="b"), 422, "fingerprint-mismatch")


@on_each_medium
def test_a_mismatch_consumes_no_token(order, token, alice, alias):
    order("key-token", alice.token(alias), reference="a")
    assert problem(order("key-token", token, reference="b"), 422, "fingerprint-mismatch")
    assert order("key-token", token, key="key-2").status_code == 201


@pytest.mark.parametrize("alias", ["default"], indirect=True)
def test_after_a_failure_the_databases_token_is_good_under_any_key(order, token):
    assert order("key-token", token, key="key-1", do="raise").status_code == 500
    assert order("key-token", token, key="key-2").status_code == 201


@pytest.mark.parametrize("alias", ["redis"], indirect=True)
@pytest.mark.parametrize("kind", ["key-token", "key-token-restore"])
def test_after_a_failure_the_token_in_redis_is_its_first_keys(order, token, kind):
    """Whatever on_failure says: to give it back could undo the consumption of the key's own retry."""
    assert order(kind, token, key="key-1", do="raise").status_code == 500
    assert problem(order(kind, token, key="key-2"), 409, "duplicate")
    assert order(kind, token, key="key-1").status_code == 201


@on_each_medium
@pytest.mark.parametrize("do", ["raise-400", "return-400", "swallow-400"])
def test_a_recorded_refusal_is_replayed_without_the_token(order, token, do):
    first = order("key-token", token, do=do)
    again = order("key-token", None, do=do)
    assert (first.status_code, again.status_code, again["Idempotency-Replayed"]) == (400, 400, "true")


@on_each_medium
@pytest.mark.usefixtures("atomic_requests")
def test_both_in_an_open_transaction(order, token):
    assert order("key-token", token, do="raise").status_code == 500
    assert order("key-token", token).status_code == 201
    assert is_replay(order("key-token", token))
    assert problem(order("key-token", token, key="key-2"), 409, "duplicate")
    assert written() == (1, 1)


@on_each_medium
@pytest.mark.parametrize(
    ("do", "of_record", "of_token"),
    [
        ("", "completed", {"default": "completed", "redis": "completed"}),
        ("return-500", "abandoned", {"default": "abandoned", "redis": "abandoned"}),
        ("raise-400", "completed", {"default": "abandoned", "redis": "completed"}),
    ],
)
def test_both_announce_how_they_ended(order, token, announced, alias, do, of_record, of_token):
    order("key-token", token, do=do)
    seen = {
        mechanism: [name for name, whose, *_ in announced if whose == mechanism]
        for mechanism in ("record", "token")
    }
    assert seen == {"record": ["claimed", of_record], "token": ["claimed", of_token[alias]]}


# Where the decorators cannot be


def view(request):
    return HttpResponse()


def from_elsewhere(view):
    return wraps(view)(lambda *args, **kwargs: view(*args, **kwargs))


post = api_view(["POST"])


@pytest.mark.parametrize(
    ("place", "match"),
    [
        (
            lambda: idempotent_view(from_elsewhere(require_idempotency_token(view))),
            "directly above the other",
        ),
        (
            lambda: require_idempotency_token(from_elsewhere(idempotent_view(view))),
            "directly above the other",
        ),
        (lambda: require_idempotency_token(require_idempotency_token(view)), "token twice"),
        (lambda: idempotent_view(require_idempotency_token(idempotent_view(view))), "idempotent_view twice"),
        (lambda: require_idempotency_token(require_idempotency_token(post(view))), "token twice"),
        (lambda: require_idempotency_token(post(idempotent_view(view))), "same side of @api_view"),
        (lambda: idempotent_view(post(require_idempotency_token(view))), "same side of @api_view"),
        (lambda: require_idempotency_token(from_elsewhere(post(view))), "directly above @api_view"),
        (
            lambda: require_idempotency_token(OrderViewSet.as_view({"post": "create"})),
            "Mix IdempotencyTokenMi",
        ),
        (lambda: require_idempotency_token(retention=None)(view), "no option 'retention'"),
        (lambda: idempotent_view(purpose="checkout")(view), "no option 'purpose'"),
    ],
)
def test_a_decorator_in_the_wrong_place_says_where_it_belongs(place, match):
    with pytest.raises(TypeError, match=match):
        place()


@pytest.mark.parametrize("order", [[idempotent_view, post], [post, idempotent_view]])
def test_a_view_of_rest_framework_that_has_a_key_only_is_not_asked_for_a_token(alice, order):
    inner, outer = order
    decorated = outer(inner(lambda request: Response()))
    assert not hasattr(getattr(decorated, "cls", None), "idempotency_token_purpose")
