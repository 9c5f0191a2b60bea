"""What ``@idempotent_task`` takes, and sets."""

from __future__ import annotations

import importlib
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from idempotency.consumers.celery import idempotent_task


def do_nothing(event):
    """Nothing."""


@pytest.mark.parametrize(
    "options",
    [
        {"acks_late": False},
        {"reject_on_worker_lost": False},
        {"acks_on_failure_or_timeout": True},
        {"acks_on_timeout": True},
        {"retry_on_worker_lost": True},
        {"max_retries": 3},
        {"autoretry_for": (Exception,)},
        {"retry_backoff": True},
    ],
)
def test_options_that_undo_the_promise_are_refused(make, options):
    (name,) = options
    with pytest.raises(TypeError, match=name):
        make(do_nothing, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key": "order"}, "no argument 'order'"),
        ({"delivery": "twice"}, "transactional"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"lease": 5}, "lease"),
        ({"not_done": LookupError}, "at_most_once"),
    ],
)
def test_options_that_are_wrong_are_refused(make, options, text):
    with pytest.raises(TypeError, match=text):
        make(do_nothing, **options)


def test_delivery_has_no_default(app):
    with pytest.raises(TypeError, match="delivery"):
        idempotent_task("nameless", key="event", app=app)


def test_coroutines_are_refused(make):
    async def place(event):
        """Never awaited."""

    with pytest.raises(TypeError, match="coroutine"):
        make(place)


def test_safe_options_are_set_and_others_are_celerys(make):
    task = make(do_nothing, acks_late=True, ignore_result=True, rate_limit="5/s")
    assert (task.acks_late, task.reject_on_worker_lost, task.max_retries) == (True, True, None)
    assert (task.acks_on_failure_or_timeout, task.retry_on_worker_lost) == (False, False)
    assert (task.ignore_result, task.rate_limit) == (True, "5/s")


def test_safe_options_win_over_the_apps_settings(app, make):
    app.conf.update(task_acks_late=False, task_reject_on_worker_lost=False, task_retry_on_worker_lost=True)
    app.conf.update(task_acks_on_failure_or_timeout=True, task_acks_on_timeout=True)
    task = make(do_nothing)
    assert task.acks_late
    assert task.reject_on_worker_lost
    assert not task.acks_on_timeout
    assert not task.retry_on_worker_lost


def test_without_celery_the_extra_is_named(monkeypatch):
    for name in ("idempotency.consumers.celery", "idempotency.consumers.celery_messages"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "celery", None)
    with pytest.raises(ImproperlyConfigured, match=r"\[celery\]"):
        importlib.import_module("idempotency.consumers.celery")
