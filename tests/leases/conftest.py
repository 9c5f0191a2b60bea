from __future__ import annotations

import pytest
from django.db import connections

from tests.leases.programs import CALLS, PLAN
from tests.processes.provider import Provider


@pytest.fixture(scope="session")
def provider_process():
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(provider_process, monkeypatch):
    """At which the test project pays."""
    provider_process.reset()
    monkeypatch.setenv("PROVIDER_URL", provider_process.url)
    return provider_process


@pytest.fixture(autouse=True)
def nothing_planned():
    CALLS.clear()
    PLAN.clear()


@pytest.fixture(autouse=True)
def every_guard_was_left():
    yield
    assert not connections["default"].__dict__.get("idempotency_guards")
