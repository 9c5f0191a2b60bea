"""Server-rendered forms: the hidden field, the decorator, and the double click."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.template import Context, Template, TemplateSyntaxError
from django.test import Client, RequestFactory

from idempotency.exceptions import StoreUnavailable
from idempotency.models import IdempotencyToken
from tests.conftest import problem
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)
on_each_medium = pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)
FIELD = re.compile(r'<input type="hidden" name="idempotency_token" value="([^"]*)" autocomplete="off">')
TAG = "{% load idempotency %}{% idempotency_token %}"


@pytest.fixture
def browser(users):
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.get(username="alice"))
    return client


def fill_in(browser, alias, query=""):
    return FIELD.search(browser.get(f"/{alias}/checkout/{query}").content.decode())[1]


def send(browser, alias, token, **fields):
    return browser.post(f"/{alias}/checkout/", {"idempotency_token": token, **fields})


@on_each_medium
def test_a_form_that_is_sent_twice_counts_once(browser, alias):
    token = fill_in(browser, alias)
    assert send(browser, alias, token).status_code == 201
    assert problem(send(browser, alias, token), 409, "duplicate")
    assert Order.objects.count() == 1


@on_each_medium
def test_each_page_has_a_token_of_its_own(browser, alias):
    assert [send(browser, alias, fill_in(browser, alias)).status_code for _ in range(2)] == [201, 201]


@on_each_medium
def test_a_form_for_another_purpose_is_refused(browser, alias):
    token = fill_in(browser, alias, "?purpose=refund")
    assert problem(send(browser, alias, token), 400, "invalid-token")


def test_a_visitors_form_belongs_to_the_session(db):
    visitor, other = Client(), Client()
    fill_in(other, "default")
    token = fill_in(visitor, "default")
    assert problem(send(other, "default", token), 400, "invalid-token")
    assert problem(send(Client(), "default", token), 403, "missing-principal")
    assert send(visitor, "default", token).status_code == 201


def test_a_script_may_send_the_field_as_a_header(browser):
    token = fill_in(browser, "default")
    response = browser.post("/default/checkout/", headers={"Idempotency-Token": token})
    assert response.status_code == 201


def test_a_form_without_the_field_or_with_two_is_refused(browser):
    assert problem(browser.post("/default/checkout/"), 400, "missing-token")
    token = fill_in(browser, "default")
    assert problem(send(browser, "default", [token, token]), 400, "invalid-token")
    assert send(browser, "default", token).status_code == 201


def test_a_form_in_another_encoding_works_too(browser):
    body, form = f"idempotency_token={fill_in(browser, 'default')}", "application/x-www-form-urlencoded"
    response = browser.post("/default/checkout/", body, content_type=f"{form}; charset=utf-8")
    assert response.status_code == 201


@pytest.mark.parametrize("kind", ["plain", "async", "above", "below"])
def test_every_kind_of_decorated_view_takes_the_field(browser, alice, kind):
    token = alice.token()
    # REST framework has its own way to know alice.
    fields, headers = {"idempotency_token": token}, {"X-User": "alice"}
    assert browser.post(f"/default/{kind}/", fields, headers=headers).status_code == 201
    assert problem(browser.post(f"/default/{kind}/", fields, headers=headers), 409, "duplicate")


def test_people_may_be_shown_a_page_instead_of_the_problem_document(browser):
    response = browser.post("/apologetic/", {"idempotency_token": "x" * 32})
    assert (response.status_code, response.content) == (200, b"<h1>expired-token</h1>")


def request_of(user):
    request = RequestFactory().get("/")
    request.user, request.session = user, SessionStore()
    return request


def test_the_tag_needs_no_context_processor():
    rendered = Template(TAG).render(Context({"request": request_of(AnonymousUser())}))
    assert FIELD.fullmatch(rendered)


def test_the_tag_says_what_it_misses():
    with pytest.raises(TemplateSyntaxError, match="needs the request"):
        Template(TAG).render(Context())


def test_the_tag_can_be_told_whose_token_it_is():
    tag = "{% load idempotency %}{% idempotency_token 'checkout' holder=tenant %}"
    Template(tag).render(Context({"request": request_of(AnonymousUser()), "tenant": "acme"}))
    Template(tag).render(Context({"request": request_of(AnonymousUser()), "tenant": "acme"}))
    assert IdempotencyToken.objects.values("principal").distinct().count() == 1


def test_a_page_is_shown_although_no_token_can_be_had(browser, monkeypatch, announced):
    def away(store, batch):
        raise StoreUnavailable

    monkeypatch.setattr("idempotency.tokens.database.DatabaseTokenStore.create", away)
    assert fill_in(browser, "default") == ""
    assert announced == [("refused", "token", None, "store-unavailable")]
    assert problem(send(browser, "default", ""), 400, "missing-token")


def test_a_page_is_shown_although_its_caller_has_too_many_tokens(browser, token_options, announced):
    token_options("default", LIMIT=1)
    assert fill_in(browser, "default") != ""
    assert fill_in(browser, "default") == ""
    assert ("refused", "token", None, "too-many-tokens") in announced
