"""Mode lease on views of every kind."""

from __future__ import annotations

import asyncio
import json

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.http import JsonResponse
from django.test import AsyncClient
from django.urls import path
from rest_framework.decorators import api_view
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.leases.completing import Completer
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps import downstream_key, on_behalf_of, operation
from idempotency.views import TokenView as TokenIssuingView
from tests.conftest import State, problem, urlconf
from tests.leases.programs import (
    CALLS,
    PLAN,
    befall,
    call,
    finish,
    orders,
    write,
)
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]


@operation("test-views", steps=[write, call, finish])
def operate(reference):
    write(reference)
    return {"called": finish(reference, call(reference)), "for": on_behalf_of()[0]}


class PlainView(IdempotencyKeyMixin, APIView):
    idempotency_mode = "lease"

    def post(self, request):
        Order.objects.create(reference="a")
        CALLS.append(downstream_key())
        befall("view")
        return Response({"calls": len(CALLS)}, status=int(request.data.get("status", 201)))


class RepeatableView(PlainView):
    idempotency_rerun = True


class SteppedView(IdempotencyKeyMixin, APIView):
    idempotency_mode = "lease"
    idempotency_steps = operate

    def post(self, request):
        befall("before")
        done = operate(request.data["reference"])
        befall("after")
        return Response(done, status=201)


class AnonymousView(SteppedView):
    authentication_classes = permission_classes = ()
    idempotency_allow_anonymous = True


class TokenView(IdempotencyTokenMixin, SteppedView):
    pass


class RepeatableTokenView(IdempotencyTokenMixin, RepeatableView):
    pass


class PlainTokenView(IdempotencyTokenMixin, PlainView):
    pass


@idempotent_view(mode="lease", steps=operate)
def function(request):
    return JsonResponse(operate(json.loads(request.body)["reference"]), status=201)


@idempotent_view(mode="lease", steps=operate)
async def coroutine(request):
    done = await sync_to_async(operate)(json.loads(request.body)["reference"])
    return JsonResponse(done, status=201)


@idempotent_view(mode="lease", steps=operate)
@api_view(["POST"])
def decorated(request):
    return Response(operate(request.data["reference"]), status=201)


STEPPED = {"class": SteppedView.as_view(), "function": function, "async": coroutine, "api_view": decorated}


class Alice:
    """Of Django's own views the user."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        from django.contrib.auth.models import User

        if "X-User" in request.headers:
            request.user = User.objects.get(username=request.headers["X-User"])
        return self.get_response(request)


@pytest.fixture(autouse=True)
def views(settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.Alice"]
    settings.ROOT_URLCONF = urlconf(
        path("plain/", PlainView.as_view()),
        path("repeatable/", RepeatableView.as_view()),
        path("anonymous/", AnonymousView.as_view()),
        path("token/", TokenView.as_view()),
        path("repeatable-token/", RepeatableTokenView.as_view()),
        path("plain-token/", PlainTokenView.as_view()),
        path("default/tokens/", TokenIssuingView.as_view()),
        *(path(f"{name}/", view) for name, view in STEPPED.items()),
    )


def send(alice, name="class", key="key-1", **data):
    return alice.once(f"/{name}/", {"reference": "a", **data}, key, format="json")


def state():
    return IdempotencyRecord.objects.get().state


@pytest.mark.parametrize("name", STEPPED)
def test_any_kind_of_view_goes_on_where_it_was_broken_off(alice, name):
    PLAN["call"] = ConnectionError()
    assert problem(send(alice, name), 409, "conflict")
    first, second = send(alice, name), send(alice, name)
    assert (first.status_code, second.status_code) == (201, 201), first.content
    assert second.content == first.content
    assert second["Idempotency-Replayed"] == "true"
    assert orders() == ["", "finished"]
    assert (len(CALLS), len(set(CALLS))) == (2, 1)


@pytest.mark.parametrize("failing", ["before", "after"])
def test_a_defect_around_the_operation_costs_nothing_of_it(alice, failing):
    PLAN[failing] = LookupError()
    assert send(alice).status_code == 500
    assert IdempotencyRecord.objects.exists() == (failing == "after")
    assert send(alice).status_code == 201
    assert orders() == ["", "finished"]
    assert len(CALLS) == 1


def test_a_refusal_of_the_view_before_its_operation_is_kept_as_ever(alice):
    PLAN["before"] = ValidationError("not so")
    assert send(alice).status_code == 400
    assert send(alice)["Idempotency-Replayed"] == "true"
    assert not OperationRun.objects.exists()
    assert orders() == []


@pytest.mark.parametrize(("befallen", "status"), [(LookupError(), 500), (None, 502), (None, 503)])
def test_without_steps_a_failure_of_the_server_leaves_the_outcome_unknown(alice, befallen, status):
    PLAN["view"] = befallen
    assert send(alice, "plain", status=status).status_code == status
    assert problem(send(alice, "plain", status=status), 409, "outcome-unknown")
    assert (len(CALLS), orders()) == (1, [])


@pytest.mark.parametrize("status", [401, 408, 429])
def test_a_passing_refusal_frees_the_key(alice, status):
    assert send(alice, "plain", status=status).status_code == status
    assert not IdempotencyRecord.objects.exists()
    assert orders() == []


def test_what_may_be_run_again_is_with_the_same_downstream_key(alice):
    PLAN["view"] = LookupError()
    assert send(alice, "repeatable").status_code == 500
    assert send(alice, "repeatable").status_code == 201
    assert (len(CALLS), len(set(CALLS)), orders()) == (2, 1, [""])


def test_callers_do_not_meet_under_one_key(alice, bob):
    PLAN["call"] = ConnectionError()
    send(alice)
    assert send(bob).status_code == 201
    assert send(alice).status_code == 201
    assert orders() == ["", "", "finished", "finished"]
    assert len(set(CALLS)) == 2


def test_an_anonymous_callers_operation_is_completed_under_its_own_downstream_key(alice):
    PLAN["call"] = ConnectionError()
    assert problem(send(alice, "anonymous"), 409, "conflict")
    assert [treated.outcome for treated in Completer("default").run()] == ["done"]
    assert (len(CALLS), len(set(CALLS))) == (2, 1)
    answer = send(alice, "anonymous")
    assert answer.json()["for"] == "anonymous"
    assert len(CALLS) == 2


def test_a_token_is_spent_once_by_all_attempts_under_one_key(alice):
    token = alice.token()
    PLAN["call"] = ConnectionError()

    def spend(key):
        headers = {"Idempotency-Token": token}
        return alice.once("/token/", {"reference": "a"}, key, format="json", headers=headers)

    assert problem(spend("key-1"), 409, "conflict")
    assert problem(spend("key-2"), 409, "duplicate")
    assert spend("key-1").status_code == 201
    assert spend("key-1")["Idempotency-Replayed"] == "true"
    assert orders() == ["", "finished"]


@pytest.mark.parametrize("token", [None, "x", "x" * 32], ids=["none", "malformed", "never issued"])
def test_of_what_a_token_has_refused_the_outcome_is_known(alice, token):
    headers = {"Idempotency-Token": token} if token else {}
    answer = alice.once("/plain-token/", {"reference": "a"}, "key-1", format="json", headers=headers)
    assert answer.status_code in (400, 410)
    assert not IdempotencyRecord.objects.exists()
    headers = {"Idempotency-Token": alice.token()}
    answer = alice.once("/plain-token/", {"reference": "a"}, "key-1", format="json", headers=headers)
    assert answer.status_code == 201


def test_a_downstream_key_is_the_operations_whatever_token_it_brings(alice):
    PLAN["view"] = LookupError()
    for status in (500, 201):
        headers = {"Idempotency-Token": alice.token()}
        answer = alice.once("/repeatable-token/", {"reference": "a"}, "key-1", format="json", headers=headers)
        assert answer.status_code == status
    assert (len(CALLS), len(set(CALLS))) == (2, 1)


def test_under_atomic_requests_it_is_told_what_to_do(alice, monkeypatch):
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    with pytest.raises(RuntimeError, match="non_atomic_requests"):
        alice.raise_request_exception = True
        send(alice)
    assert orders() == []


def test_a_request_that_is_cancelled_leaves_its_operation_to_the_next():
    async def cancel():
        client = AsyncClient()
        PLAN["call"] = asyncio.CancelledError()
        headers = {"X-User": "alice", "Idempotency-Key": "key-1"}
        with pytest.raises(asyncio.CancelledError):
            await client.post("/async/", {"reference": "a"}, content_type="application/json", headers=headers)

    async_to_sync(cancel)()
    assert state() == State.RUNNING
    assert [treated.outcome for treated in Completer("default").run()] == ["done"]
    assert orders() == ["", "finished"]
