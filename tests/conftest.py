from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import ModuleType
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.checks import run_checks
from django.db import connections
from django.urls import include, path
from rest_framework.test import APIClient

from idempotency import signals
from idempotency.database import DatabaseNow
from idempotency.models import IdempotencyRecord
from idempotency.unique_ids import unique_ids
from tests import emptying, services
from tests.processes.redis_caches import fault, proxy, retries  # noqa: F401  (fixtures)
from tests.project import views
from tests.settings import PSYCOPG, VENDOR

State = IdempotencyRecord.State
MEDIUMS = ["default", "redis", "redis-cluster", "locmem"]
"""Aliases of IDEMPOTENCY_TOKENS; "default" is the database of the work."""


UNIQUE_ID_MEDIUMS = ["default", "elsewhere", "redis", "redis-cluster"]
"""Aliases of IDEMPOTENCY_UNIQUE_IDS; "elsewhere" is a database that is not the work's."""

LOCK_MEDIUMS = ["default", "redis", "redis-cluster", "zookeeper"]
"""Aliases of IDEMPOTENCY_LOCKS; "default" is the database."""

IN_A_DATABASE = {"default", "elsewhere"}
ONCE = VENDOR == "postgresql" and PSYCOPG == "2"
"""Whether this is the run that has what does not depend on the database or its driver."""
ONE_WILL_DO = "about a medium that is no database: one run will do, and that is PostgreSQL's"
beside_postgresql = pytest.mark.skipif(not ONCE, reason=ONE_WILL_DO)


class Caller(APIClient):
    """A user's client: ``post(path, data, key=…)``. Server errors are answers, not exceptions."""

    def __init__(self, username: str | None = "alice", **kwargs):
        super().__init__(raise_request_exception=False, **kwargs)
        self.username = username

    def request(self, **request):
        if self.username:
            request.setdefault("HTTP_X_USER", self.username)
        return super().request(**request)

    def once(self, path, data=None, key="key-1", method="post", **extra):
        """A guarded request under the key."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        headers.update(extra.pop("headers", {}))
        return getattr(self, method)(path, data or {}, headers=headers, **extra)

    def token(self, alias="default", purpose=""):
        """Fetched as clients fetch it."""
        response = self.post(f"/{alias}/tokens/", {"purpose": purpose}, format="json")
        assert response.status_code == 201, response.content
        return response.json()["token"]

    def spend(self, path, token, data=None, method="post", **extra):
        """A request with the token, and under no key."""
        headers = {"Idempotency-Token": token} if token is not None else {}
        headers.update(extra.pop("headers", {}))
        return self.once(path, data, key=None, method=method, headers=headers, **extra)


def problem(response, status, code):
    """Whether the answer is the problem document of this refusal."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    assert response["Cache-Control"] == "no-store"
    document = json.loads(response.content)
    assert document["code"] == code
    assert document["status"] == status
    assert {"type", "title", "detail"} < set(document)
    return True


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup):
    with emptying.instead_of_flushing():
        yield


@pytest.fixture
def users(db):
    return [User.objects.create(username=name) for name in ("alice", "bob")]


@pytest.fixture
def alice(users) -> Caller:
    return Caller("alice")


@pytest.fixture
def bob(users) -> Caller:
    return Caller("bob")


@pytest.fixture(autouse=True)
def clean_slate():
    cache.clear()
    views.HOOKS_RUN.clear()
    yield
    # kazoo's threads draw random numbers, which Hypothesis would take for its strategies' own.
    if sessions := sys.modules.get("idempotency.locks.sessions"):
        sessions.disconnect()


def let_lease_pass():
    """As if the time of every owner were over."""
    rows = IdempotencyRecord.objects.filter(state__in=(State.RUNNING, State.UNKNOWN))
    rows.update(expires_at=DatabaseNow() - timedelta(seconds=1))


def in_a_thread(work):
    """What it returns or raises, with connections of its own."""

    def run():
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def urlconf(*patterns):
    module = ModuleType("urls")
    module.urlpatterns = list(patterns)
    return module


@pytest.fixture
def found(settings):
    """``found(view, …)``: the ids of what is wrong with a URLconf of these views."""

    def found(*views, **options):
        urlpatterns = [path(f"{number}/", view) for number, view in enumerate(views)]
        settings.ROOT_URLCONF = urlconf(path("api/", include(urlpatterns)))
        messages = run_checks(tags=["idempotency"], **options)
        return {message.id.removeprefix("idempotency.") for message in messages}

    return found


def available(medium):
    """The alias; its server must be there in CI."""
    if medium in services.SERVICES and (lacking := services.missing(medium)):
        assert not services.CI, lacking
        pytest.skip(lacking)
    return medium


def in_turn(medium):
    """The alias; those that are no database come in one run only."""
    if medium not in IN_A_DATABASE and not ONCE:
        pytest.skip(ONE_WILL_DO)
    return available(medium)


@pytest.fixture(params=MEDIUMS)
def alias(request):
    """Each medium of tokens in turn."""
    return in_turn(request.param)


@pytest.fixture(params=UNIQUE_ID_MEDIUMS)
def ids(request):
    """Unique ids on each medium in turn, that no other test has."""
    return unique_ids(in_turn(request.param), uuid4().hex)


@pytest.fixture(params=[False, True], ids=["autocommit", "atomic-requests"])
def atomic_requests(request, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", request.param)
    return request.param


@pytest.fixture
def token_options(settings):
    """``token_options("redis", LIMIT=5)``: set options of one alias."""

    def set_options(alias, **options):
        mediums = settings.IDEMPOTENCY_TOKENS
        settings.IDEMPOTENCY_TOKENS = {**mediums, alias: {**mediums.get(alias, {}), **options}}

    return set_options


@pytest.fixture
def announced():
    """The signals of the test, in order: (name, mechanism, key, error's code)."""
    seen = []

    def listen(name):
        def receive(mechanism, key, error=None, **extra):
            seen.append((name, mechanism, key, getattr(error, "code", None)))

        getattr(signals, name).connect(receive)
        return receive

    receivers = {name: listen(name) for name in ("claimed", "refused", "completed", "abandoned", "replayed")}
    yield seen
    for name, receive in receivers.items():
        getattr(signals, name).disconnect(receive)


@pytest.fixture(params=LOCK_MEDIUMS)
def medium(request):
    """Each medium of locks in turn."""
    return in_turn(request.param)


@pytest.fixture
def name():
    """Of a lock that no other test has."""
    return uuid4().hex
