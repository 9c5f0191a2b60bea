"""Whatever the order of requests, failures, expiries and purges: section 5 of the design holds."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.http import HttpResponse
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rest_framework.response import Response

from idempotency.models import IdempotencyRecord
from idempotency.responses import PASSING_STATUSES, StoredResponse
from tests.conftest import Caller
from tests.project import views
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)

# The same examples everywhere: a failure in CI is a failure at home. Add Phase.shrink there to have it
# cut down, which takes minutes.
REPEATABLE = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "phases": [Phase.generate],
    # Its fixtures are the database and the clients, which every example shares.
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


class Outcome(NamedTuple):
    """What a handler does: its status, whether it raises, and what is left of it."""

    status: int
    act: object
    keeps_writes: bool
    is_recorded: bool


OUTCOMES = {
    "success": Outcome(201, lambda: Response({"orders": Order.objects.count()}, status=201), True, True),
    "redirect": Outcome(303, views.ACTIONS["return-303"], True, True),
    "returned refusal": Outcome(400, views.ACTIONS["return-400"], True, True),
    "raised refusal": Outcome(400, views.ACTIONS["raise-400"], False, True),
    "raised teapot": Outcome(418, views.ACTIONS["raise-418"], False, True),
    "inner savepoint": Outcome(201, views.ACTIONS["savepoint"], True, True),
    "returned 429": Outcome(429, views.ACTIONS["return-429"], False, False),
    "returned 500": Outcome(500, views.ACTIONS["return-500"], False, False),
    "unhandled": Outcome(500, views.ACTIONS["raise"], False, False),
}


@dataclass
class Kept:
    payload: str
    status: int
    expired: bool = False


class Model:
    """Section 5 of the design, mode atomic, one request at a time."""

    def __init__(self):
        self.kept, self.effects = {}, 0

    def call(self, operation, payload, outcome):
        """The expected (status, replayed)."""
        kept = self.kept.get(operation)
        if kept and not kept.expired:
            return (kept.status, True) if kept.payload == payload else (422, False)
        self.effects += outcome.keeps_writes
        if outcome.is_recorded:
            self.kept[operation] = Kept(payload, outcome.status)
        return (outcome.status, False)

    def purge(self):
        self.kept = {operation: kept for operation, kept in self.kept.items() if not kept.expired}


users = st.sampled_from(["alice", "bob"])
paths = st.sampled_from(["/orders/", "/other-orders/"])
keys = st.sampled_from(["Key", "key"])
payloads = st.sampled_from(["this", "that"])


class Requests(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        Order.objects.all().delete()
        IdempotencyRecord.objects.all().delete()
        self.model = Model()
        self.first_bodies = {}

    @rule(user=users, path=paths, key=keys, payload=payloads, outcome=st.sampled_from(list(OUTCOMES)))
    def call(self, user, path, key, payload, outcome):
        operation = (user, path, key)
        views.ACTIONS["as told"] = OUTCOMES[outcome].act
        response = Caller(user).once(path, {"reference": payload, "do": "as told"}, key=key)
        status, replayed = self.model.call(operation, payload, OUTCOMES[outcome])
        assert (response.status_code, "Idempotency-Replayed" in response) == (status, replayed)
        if replayed:
            assert response.content == self.first_bodies[operation]
        elif status != 422:
            self.first_bodies[operation] = response.content

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data())
    def expire(self, data):
        user, path, key = operation = data.draw(st.sampled_from(sorted(self.model.kept)))
        principal = ("auth.user", str(User.objects.get(username=user).pk))
        records = IdempotencyRecord.objects.of_principal(*principal).with_key(key)
        past = timezone.now() - timedelta(days=1)
        assert records.filter(operation=f"POST {path[1:]}").update(expires_at=past) == 1
        self.model.kept[operation].expired = True

    @precondition(lambda self: any(kept.expired for kept in self.model.kept.values()))
    @rule()
    def purge(self):
        IdempotencyRecord.objects.expired().delete()
        self.model.purge()

    @invariant()
    def as_many_effects_as_the_model_says(self):
        assert Order.objects.count() == self.model.effects

    @invariant()
    def as_many_records_as_the_model_says(self):
        assert IdempotencyRecord.objects.count() == len(self.model.kept)
        expired = sum(kept.expired for kept in self.model.kept.values())
        assert IdempotencyRecord.objects.expired().count() == expired
        assert IdempotencyRecord.objects.live().count() == len(self.model.kept) - expired


class RequestsInATransaction(Requests):
    """As a user's TestCase has it: one transaction around everything."""

    def __init__(self):
        self.around = ExitStack()
        self.around.enter_context(transaction.atomic())
        super().__init__()

    def teardown(self):
        transaction.set_rollback(True)
        self.around.close()


@pytest.fixture
def as_told(users, monkeypatch):
    monkeypatch.setitem(views.ACTIONS, "as told", None)


@pytest.mark.parametrize("machine", [Requests, RequestsInATransaction])
@pytest.mark.parametrize("atomic_requests", [False, True])
def test_effects_and_answers_agree_with_the_model(as_told, monkeypatch, machine, atomic_requests):
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", atomic_requests)
    run_state_machine_as_test(
        machine, settings=profile(**REPEATABLE, max_examples=25, stateful_step_count=25)
    )


statuses = st.sampled_from([status for status in range(200, 500) if status not in PASSING_STATUSES])
header_values = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n"), max_size=30)
headers = st.dictionaries(
    st.sampled_from(
        ["Location", "Link", "ETag", "Content-Language", "Content-Disposition", "Vary", "X-Kept"]
    ),
    header_values,
)
media_types = st.sampled_from(["application/pdf", "text/plain; charset=utf-16", "application/json", ""])


@given(statuses, headers, media_types, st.binary(max_size=2000))
@profile(**REPEATABLE, max_examples=150)
def test_any_response_is_replayed_byte_for_byte(
    alice, monkeypatch, settings, status, headers, media_type, body
):
    settings.IDEMPOTENCY_REPLAY_HEADERS = ["X-Kept"]
    IdempotencyRecord.objects.all().delete()
    answer = HttpResponse(body, status=status, headers=headers, content_type=media_type)
    monkeypatch.setitem(views.ACTIONS, "as told", lambda: answer)
    first, again = (alice.once("/orders/", {"do": "as told"}) for _ in range(2))
    assert (first.status_code, "Idempotency-Replayed" in first) == (status, False)
    assert (again.status_code, again["Idempotency-Replayed"]) == (status, "true")
    assert again.content == first.content
    del again["Idempotency-Replayed"]
    assert dict(again.items()) == {name: value for name, value in first.items() if name in KEPT}


KEPT = {"Location", "Link", "ETag", "Content-Language", "Content-Disposition", "Content-Type"}
KEPT |= {"Vary", "X-Kept", "Cache-Control"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
@profile(**REPEATABLE)
def test_any_json_value_is_given_back_as_it_was(value):
    stored = StoredResponse.from_result(value)
    again = StoredResponse.from_columns(None, stored.headers_column, stored.body, stored.body_state)
    assert repr(again.result) == repr(value)
