from __future__ import annotations

from types import ModuleType

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.checks import run_checks
from django.urls import include, path
from rest_framework.test import APIClient

from tests.project import views


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
