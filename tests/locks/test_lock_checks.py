"""What `manage.py check` says about locks before one is taken, and what `lock()` says of its arguments."""

from __future__ import annotations

import builtins
import sys
from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.test.utils import isolate_apps

from idempotency import redis
from idempotency.exceptions import InvalidKey
from idempotency.locks import FencedMixin, lock
from tests.settings import REDIS_LOCKS, ZOOKEEPER_LOCKS


@pytest.fixture(autouse=True)
def own_setting(settings):
    settings.IDEMPOTENCY_TOKENS, settings.IDEMPOTENCY_UNIQUE_IDS = {}, {}


def set_up(settings, **options):
    settings.IDEMPOTENCY_LOCKS = {"default": options}


def test_what_can_work_is_not_complained_about(found, settings):
    assert found(include_deployment_checks=True) == set()
    set_up(settings, BACKEND=REDIS_LOCKS, LOCATION="redis")
    assert found() == set()
    set_up(settings, BACKEND=ZOOKEEPER_LOCKS, LOCATION="zk1:2181,zk2:2181/chroot")
    assert found() == set()


@pytest.mark.parametrize(
    "options",
    [{"TTL": 30}, {"TTL": timedelta(0)}, {"RENEW_FOR": None}, {"TIMEOUT": 3}, {"BACKEND": ZOOKEEPER_LOCKS}],
    ids=str,
)
def test_a_setting_that_cannot_work_is_told(found, settings, options):
    set_up(settings, **options)
    assert found() == {"E022"}


@pytest.mark.parametrize(
    "options",
    [{"LOCATION": "nowhere"}, {"BACKEND": REDIS_LOCKS}, {"BACKEND": REDIS_LOCKS, "LOCATION": "nowhere"}],
    ids=["no database", "local memory", "no cache"],
)
def test_a_medium_that_cannot_keep_locks_is_told(found, settings, options):
    set_up(settings, **options)
    assert found() == {"E023"}


def test_a_ttl_that_a_slow_answer_outlasts_is_told(found, settings):
    set_up(settings, BACKEND=REDIS_LOCKS, LOCATION="redis", TTL=timedelta(seconds=5))
    assert found() == {"W014"}


def test_a_redis_that_evicts_is_told_on_deployment(found, settings, monkeypatch):
    set_up(settings, BACKEND=REDIS_LOCKS, LOCATION="redis")
    monkeypatch.setattr(redis, "eviction_policies", lambda location: {"allkeys-lru"})
    assert found() == set()
    assert found(include_deployment_checks=True) == {"W012"}


def test_a_missing_kazoo_is_told_with_what_to_install(found, settings, monkeypatch):
    forgotten = [
        name
        for name in sys.modules
        if name.startswith(("kazoo", "idempotency.locks.se", "idempotency.locks.z"))
    ]
    for name in forgotten:
        monkeypatch.delitem(sys.modules, name)
    importing = builtins.__import__

    def without_kazoo(name, *args, **kwargs):
        if name.startswith("kazoo"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_kazoo)
    set_up(settings, BACKEND=ZOOKEEPER_LOCKS, LOCATION="zk1:2181")
    with pytest.raises(ImproperlyConfigured, match=r"\[zookeeper\]"), lock("a"):
        pass
    assert found() == {"E022"}


@isolate_apps("tests.project")
def test_a_fenced_model_that_does_not_say_which_lock_is_its_own_is_told(monkeypatch):
    from idempotency.checks import locks

    class Nameless(FencedMixin, models.Model):
        class Meta:
            app_label = "project"

    monkeypatch.setattr(locks.apps, "get_models", lambda: [Nameless])
    assert [message.id for message in locks.check_fenced_models()] == ["idempotency.E024"]


@pytest.mark.parametrize("name", ["", "é", "x" * 256, None, True, b"x"], ids=str)
def test_a_senseless_name_is_refused_at_once(name):
    with pytest.raises(InvalidKey, match="lock's name"):
        lock(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": "30"},
        {"wait": -1},
        {"wait": True},
        {"renew_for": -1},
        {"on_busy": "wait"},
    ],
    ids=str,
)
def test_senseless_arguments_are_refused_at_once(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        lock("a", **arguments)


def test_times_may_be_timedeltas():
    made = lock("a", ttl=timedelta(minutes=1), wait=timedelta(seconds=2), renew_for=timedelta(0))
    assert (made.ttl, made.wait, made.renew_for) == (60, 2, 0)


def test_a_name_that_is_a_function_is_for_decorating_only():
    with pytest.raises(TypeError, match="decorator"), lock(lambda: "a"):
        pass
