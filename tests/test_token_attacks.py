"""Ways in which one-time tokens were once got around, turned their caller away, or failed unclearly."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory
from django.views import View

from idempotency import redis_dues
from idempotency.decorators import require_idempotency_token
from idempotency.exceptions import DuplicateToken, MissingPrincipal, OutcomeUnknown, StoreUnavailable
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.models import IdempotencyRecord
from idempotency.policies.token import TokenPolicy, issue_to_caller
from idempotency.tokens import tokens
from idempotency.transactions import GuardedTransaction
from tests.conftest import Caller, problem
from tests.processes.redis_tokens import redis_behind_proxy, tokens_at
from tests.project.models import Order
from tests.test_token_purge import age

pytestmark = pytest.mark.django_db(transaction=True)
HOLDER = ("user", "1")
on_each_medium = pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)


def once(caller, alias, token, key="key-1"):
    return caller.once(f"/{alias}/key-token/", key=key, headers={"Idempotency-Token": token})


# Run again


def test_a_key_whose_record_is_gone_does_not_bring_its_used_token_in_again(alice):
    token = alice.token()
    assert once(alice, "default", token).status_code == 201
    IdempotencyRecord.objects.all().delete()
    assert problem(once(alice, "default", token), 409, "duplicate")
    assert Order.objects.count() == 1


@pytest.mark.parametrize("alias", ["redis"], indirect=True)
def test_records_that_are_kept_shorter_than_tokens_live_let_nothing_in_again(alice, alias, settings):
    settings.IDEMPOTENCY_RETENTION = timedelta(minutes=59)
    token = alice.token(alias)
    assert once(alice, alias, token).status_code == 201
    IdempotencyRecord.objects.all().delete()
    assert problem(once(alice, alias, token), 409, "duplicate")


def test_when_record_and_lifetime_are_over_the_mark_still_says_no(alice):
    token = alice.token()
    once(alice, "default", token)
    IdempotencyRecord.objects.all().delete()
    age(timedelta(hours=24))
    assert problem(once(alice, "default", token), 409, "duplicate")


@pytest.mark.parametrize("mixin", [IdempotencyKeyMixin, IdempotencyTokenMixin])
def test_a_view_that_the_mixin_cannot_guard_is_refused(mixin):
    with pytest.raises(TypeError, match=r"method_decorator"):
        type("Checkout", (mixin, View), {})


# Turned away


def test_pages_opened_at_once_in_one_session_all_have_good_tokens():
    cart = SessionStore()
    cart["cart"] = "tea"
    cart.save()
    requests = [RequestFactory().get("/") for _ in range(2)]
    for request in requests:
        request.user, request.session = AnonymousUser(), SessionStore(cart.session_key)
    issued = [issue_to_caller(TokenPolicy(), request).token for request in requests]
    for request in requests:
        request.session.save()
    for token in issued:
        with tokens().consume(token, TokenPolicy().get_idempotency_token_holder(requests[0])):
            pass


def test_where_anonymous_callers_are_allowed_they_need_no_cookies():
    token = Caller(None).post("/default/anyones-tokens/").json()["token"]
    assert Caller(None).spend("/default/anyones/", token).status_code == 201


def test_a_token_that_nobody_got_is_given_back_although_no_other_is_asked_for(settings, monkeypatch):
    """The caller's next request may be served by another process, which cannot give it back."""
    monkeypatch.setattr(redis_dues, "PAUSE", 0.01)
    with redis_behind_proxy() as proxy, tokens_at(settings, proxy.port, timeout=0.3) as store:
        token = store.issue(HOLDER).token
        proxy.fault("drop-reply", only="EVALSHA")
        with pytest.raises(StoreUnavailable), store.consume(token, HOLDER):
            Order.objects.create(reference="run")
        proxy.mend()
        if thread := redis_dues._thread:
            thread.join(30)
        with tokens("direct").consume(token, HOLDER):
            Order.objects.create(reference="run")
    assert Order.objects.count() == 1


@pytest.mark.parametrize("alias", ["redis"], indirect=True)
def test_a_commit_that_nobody_answered_is_said_to_be_unknown_where_the_token_stays_spent(alias, monkeypatch):
    def lost(transaction):
        transaction.roll_back()
        raise StoreUnavailable from OperationalError("server closed the connection")

    monkeypatch.setattr(GuardedTransaction, "commit", lost)
    token = tokens(alias).issue(HOLDER).token
    with pytest.raises(OutcomeUnknown), tokens(alias).consume(token, HOLDER, on_failure="restore"):
        pass
    with pytest.raises(DuplicateToken), tokens(alias).consume(token, HOLDER):
        pass


@on_each_medium
def test_a_page_that_is_loaded_again_is_the_same_payload(alice, alias, users):
    alice.force_login(User.objects.get(username="alice"))
    for fresh in (alice.token(alias), alice.token(alias)):
        fields = {"idempotency_token": fresh, "csrfmiddlewaretoken": fresh, "reference": "a"}
        response = alice.once(f"/{alias}/plain-key-token/", fields, format="multipart")
        assert response.status_code == 201
    assert response["Idempotency-Replayed"] == "true"


# Failed unclearly


@pytest.mark.parametrize("nobody", [AnonymousUser(), None, User()])
def test_nobody_is_a_missing_principal(nobody):
    with pytest.raises(MissingPrincipal):
        tokens().issue(nobody)


@pytest.mark.parametrize("nonsense", [42, ("user",), ["user", "1"]])
def test_what_names_nobody_is_told_so(nonsense):
    with pytest.raises(TypeError, match="says whose it is"):
        tokens().issue(nonsense)


@pytest.mark.parametrize("arguments", ["purpose", "'checkout' holder=tenant", "''"])
def test_a_variable_that_is_not_set_is_no_purpose_and_no_holder(arguments):
    request = RequestFactory().get("/")
    request.user, request.session = AnonymousUser(), SessionStore()
    tag = Template("{% load idempotency %}{% idempotency_token " + arguments + " %}")
    with pytest.raises(TemplateSyntaxError, match="empty value"):
        tag.render(Context({"request": request}))


def test_a_visitor_without_a_session_is_shown_the_page():
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    page = Template("{% load idempotency %}{% idempotency_token %}").render(Context({"request": request}))
    assert 'value=""' in page


def test_a_purpose_without_its_name_is_told_how():
    with pytest.raises(TypeError, match="by name, not 'checkout'"):
        require_idempotency_token("checkout")


def test_the_log_says_why_the_store_is_away(alice, settings, caplog):
    with redis_behind_proxy() as proxy, tokens_at(settings, proxy.port):
        token = tokens("direct").issue(User.objects.get(username="alice")).token
        proxy.away()
        with caplog.at_level(logging.WARNING, "idempotency"):
            assert problem(alice.spend("/default/consume/", token), 503, "store-unavailable")
    assert "store-unavailable (ConnectionError:" in caplog.text
