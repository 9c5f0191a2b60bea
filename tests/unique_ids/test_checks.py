"""What `manage.py check` says about unique ids before a message comes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.db import connections

from idempotency import redis
from idempotency.checks.databases import OWN_MODELS
from idempotency.exceptions import StoreUnavailable
from idempotency.models import LockFence, LockLease, UniqueId

REDIS = "idempotency.unique_ids.redis.RedisUniqueIdStore"


@pytest.fixture(autouse=True)
def own_setting(settings):
    settings.IDEMPOTENCY_TOKENS, settings.IDEMPOTENCY_LOCKS = {}, {}


def set_up(settings, **options):
    settings.IDEMPOTENCY_UNIQUE_IDS = {"default": options}


def test_what_can_work_is_not_complained_about(found, settings):
    assert found(include_deployment_checks=True) == set()
    set_up(settings, BACKEND=REDIS, LOCATION="redis", SLICE=timedelta(hours=6))
    assert found() == set()


@pytest.mark.parametrize(
    "options",
    [
        {"WINDOW": 60},
        {"WINDOW": timedelta(0)},
        {"SLICE": timedelta(days=2)},
        {"SLICE": timedelta(minutes=1)},
        {"EXPECTED_IDS": 0},
        {"CLAIM": None},
        {"ON_FAILURE": "restore"},
        {"ON_UNKNOWN": "wait"},
        {"FAIL_OPEN": "no"},
        {"TIMEOUT": 60},
        {"BACKEND": "tests.project.models.Order"},
        {"LOCATION": ["default"]},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_told(found, settings, options):
    set_up(settings, **options)
    assert found() == {"E020"}


@pytest.mark.parametrize("aliases", [None, ["default"], {"default": []}], ids=str)
def test_a_setting_that_is_no_dict_is_told(found, settings, aliases):
    settings.IDEMPOTENCY_UNIQUE_IDS = aliases
    assert found() == {"E020"}


@pytest.mark.parametrize(
    "options",
    [
        {"LOCATION": "nowhere"},
        {"BACKEND": REDIS, "LOCATION": "default"},
        {"BACKEND": REDIS, "LOCATION": "nowhere"},
        {"BACKEND": REDIS},
    ],
    ids=str,
)
def test_a_medium_that_cannot_keep_ids_is_told(found, settings, options):
    set_up(settings, **options)
    assert found() == {"E021"}


def test_a_database_that_is_not_supported_is_told(found, settings, monkeypatch):
    set_up(settings, LOCATION="elsewhere")
    assert found() == set()
    monkeypatch.setattr(connections["elsewhere"], "vendor", "oracle")
    assert found() == {"E021"}


def test_failing_open_is_told(found, settings):
    set_up(settings, FAIL_OPEN=True)
    assert found() == {"W009"}
    [message] = run_checks(tags=["idempotency"])
    assert message.msg.startswith("IDEMPOTENCY_UNIQUE_IDS['default'] fails open")


def test_a_redis_without_a_timeout_is_told(found, settings, monkeypatch):
    monkeypatch.setattr(redis, "library_timeout", lambda: None)
    settings.CACHES = {**settings.CACHES, "redis": {**settings.CACHES["redis"], "OPTIONS": {}}}
    set_up(settings, BACKEND=REDIS, LOCATION="redis")
    assert found() == {"W010"}


@pytest.mark.django_db
def test_a_redis_that_evicts_is_told_once_for_all_that_is_kept_there(found, settings, monkeypatch):
    settings.IDEMPOTENCY_TOKENS = {"default": {"BACKEND": settings.REDIS_TOKENS, "LOCATION": "redis"}}
    set_up(settings, BACKEND=REDIS, LOCATION="redis")
    monkeypatch.setattr(redis, "eviction_policies", lambda location: {"allkeys-lru", "noeviction"})
    assert found(databases=["default"]) == set()
    [message] = run_checks(tags=["idempotency"], include_deployment_checks=True)
    assert message.id == "idempotency.W012"
    assert "(allkeys-lru)" in message.msg
    assert "used token" in message.msg
    assert "ids that were handled" in message.msg


def test_a_redis_that_is_away_is_not_the_check_s_to_report(found, settings, monkeypatch):
    def away(location):
        raise StoreUnavailable

    set_up(settings, BACKEND=REDIS, LOCATION="redis")
    monkeypatch.setattr(redis, "eviction_policies", away)
    assert found(include_deployment_checks=True) == set()


def test_tables_of_ids_and_locks_must_have_transactions_too():
    assert {UniqueId, LockLease, LockFence} <= {*OWN_MODELS}
