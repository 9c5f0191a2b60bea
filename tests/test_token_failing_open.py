"""What a view answers while Redis is away, and an operation that is let pass then."""

from __future__ import annotations

import json
import logging

import pytest
from django.contrib.auth.models import User
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from idempotency.exceptions import DuplicateToken, ExpiredToken, StoreUnavailable
from idempotency.mixins import IdempotencyTokenMixin
from idempotency.signals import failed_open
from idempotency.tokens import tokens
from tests.conftest import beside_postgresql
from tests.processes.redis_tokens import HOLDER, tokens_at
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), beside_postgresql]


class OrderView(IdempotencyTokenMixin, APIView):
    def post(self, request):
        Order.objects.create(reference="run")
        return Response(status=201)


@pytest.fixture
def store(proxy, settings):
    with tokens_at(settings, proxy.port) as store:
        yield store


@pytest.fixture
def open_store(proxy, settings):
    with tokens_at(settings, proxy.port, FAIL_OPEN=True) as store:
        yield store


@pytest.fixture
def alice():
    return User.objects.create(username="alice")


@pytest.fixture
def failures():
    """What is sent as ``failed_open``."""
    sent = []

    def receive(**kwargs):
        sent.append(kwargs)

    failed_open.connect(receive)
    yield sent
    failed_open.disconnect(receive)


def run(token):
    with tokens().consume(token, HOLDER) as entered:
        Order.objects.create(reference="run")
    return entered


def post(user, token):
    request = APIRequestFactory().post("/", headers={"Idempotency-Token": token})
    force_authenticate(request, user)
    return OrderView.as_view()(request)


def test_a_view_answers_503_and_works_on(proxy, store, alice):
    token = store.issue(alice).token
    proxy.away()
    response = post(alice, token)
    assert (response.status_code, response["Content-Type"]) == (503, "application/problem+json")
    assert json.loads(response.content)["code"] == "store-unavailable"
    assert int(response["Retry-After"]) > 0
    proxy.back()
    assert [post(alice, token).status_code for _ in range(2)] == [201, 409]
    assert Order.objects.count() == 1


def test_by_default_nothing_runs_without_its_store(proxy, store, failures):
    proxy.away()
    with pytest.raises(StoreUnavailable):
        run("x" * 32)
    assert not failures
    assert not Order.objects.exists()


def test_failing_open_the_operation_runs_and_is_reported(proxy, open_store, failures, caplog):
    token = open_store.issue(HOLDER).token
    proxy.away()
    with caplog.at_level(logging.WARNING, "idempotency"):
        assert run(token).failed_open
    assert Order.objects.count() == 1
    [sent] = failures
    assert (sent["mechanism"], sent["error"].code) == ("token", "store-unavailable")
    assert "failed open" in "".join(r.message for r in caplog.records if r.levelno == logging.WARNING)
    assert token not in caplog.text


def test_failing_open_ends_when_redis_is_back(proxy, open_store, failures):
    token = open_store.issue(HOLDER).token
    proxy.away()
    in_the_meantime = open_store.issue(HOLDER).token
    run(in_the_meantime)
    proxy.back()
    with pytest.raises(ExpiredToken):
        run(in_the_meantime)
    assert not run(token).failed_open
    with pytest.raises(DuplicateToken):
        run(token)
    assert (Order.objects.count(), len(failures)) == (2, 2)


def test_a_view_that_failed_open_says_so(proxy, open_store, alice):
    token = open_store.issue(alice).token
    proxy.away()
    response = post(alice, token)
    assert (response.status_code, response["Idempotency-Failed-Open"]) == (201, "token")
    proxy.back()
    assert "Idempotency-Failed-Open" not in post(alice, token)
