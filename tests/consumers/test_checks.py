"""What the system checks say of brokers and consumers in the settings."""

from __future__ import annotations

from datetime import timedelta

import pytest

BROKERS = {"default": {"URL": "memory://"}}


def test_nothing_need_be_set(found):
    assert found() == set()


def test_what_is_right_is_left_alone(found, settings):
    settings.IDEMPOTENCY_BROKERS = {**BROKERS, "other": {"URL": "amqp://", "TRANSPORT_OPTIONS": {"a": 1}}}
    settings.IDEMPOTENCY_CONSUMERS = {
        "a": {},
        "b": {"BROKER": "other", "EXCHANGE": "orders", "ROUTING_KEYS": ["order.*"], "PREFETCH": 1},
    }
    assert found() == set()


@pytest.mark.parametrize(
    "brokers",
    ["amqp://", {"default": {}}, {"default": "amqp://"}, {"x": {"URL": "here"}}, {"x": {"URI": "a"}}],
)
def test_a_broker_that_cannot_be_reached_by_what_is_set(found, settings, brokers):
    settings.IDEMPOTENCY_BROKERS = brokers
    assert found() == {"E027"}


@pytest.mark.parametrize(
    "consumers",
    [
        ["a"],
        {"a": "queue"},
        {"a": {"QEUE": "q"}},
        {"a": {"QUEUE": ""}},
        {"a": {"PREFETCH": 0}},
        {"a": {"MAX_ATTEMPTS": True}},
        {"a": {"EXCHANGE": "orders"}},
        {"a": {"ROUTING_KEYS": ["order.*"]}},
        {"a": {"EXCHANGE": "orders", "ROUTING_KEYS": "order.*"}},
        {"a": {"BROKER": "another"}},
        {"a": {"PREFETCH": 65536}},
        {"a": {"QUEUE_ARGUMENTS": [("x-max-priority", 3)]}},
        {"a": {"QUEUE": "q" * 251}},
        {"a": {"QUEUE": "q"}, "b": {"QUEUE": "q"}},
        {"a": {}, "b": {"QUEUE": "a"}},
    ],
)
def test_a_consumer_whose_options_do_not_go_together(found, settings, consumers):
    settings.IDEMPOTENCY_BROKERS = BROKERS
    settings.IDEMPOTENCY_CONSUMERS = consumers
    assert found() == {"E028"}


@pytest.mark.parametrize("setting", ["IDEMPOTENCY_INBOX_RETENTION", "IDEMPOTENCY_OUTBOX_RETENTION"])
@pytest.mark.parametrize("value", [7, timedelta(0), timedelta.max])
def test_a_retention_that_is_none(found, settings, setting, value):
    setattr(settings, setting, value)
    assert found() == {"E026"}
