"""Processes that are killed on each line of a message that is handled once, and its redelivery."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import available, beside_postgresql
from tests.test_crashes import crash_at_each_moment, each_line

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True)]


def crashes(operation, store, **options):
    files = {"unique_ids/guard.py", store, "work.py"}
    for crash in crash_at_each_moment(operation, "kill", files=files, **options):
        assert crash["signal"] == signal.SIGKILL, crash
        retry, before = crash["retry"], crash["retry"]["before"]
        # Neither half of the work, nor ever a message that is lost.
        assert before["orders"] == before["products"] <= 1, crash
        assert retry["orders"] == retry["products"] >= 1, crash
        assert retry["status"] == 200, crash
        yield crash, retry, before


def test_in_the_database_of_the_work_a_message_is_handled_exactly_once():
    for crash, retry, before in crashes("handle default", "unique_ids/database.py", **each_line("first")):
        assert retry["orders"] == 1, crash
        assert retry["body"] == ("skipped" if before["orders"] else "ran"), crash


@beside_postgresql
def test_on_redis_a_message_is_handled_at_least_once_and_twice_only_when_killed_after_its_commit():
    available("redis")
    told = set()
    for crash, retry, before in crashes("handle redis", "unique_ids/redis.py"):
        told.add((before["orders"], retry["body"]))
        assert retry["orders"] == before["orders"] + (retry["body"] == "ran"), crash
    # Killed before the commit, between it and what Redis is told, and after that.
    assert told == {(0, "ran"), (1, "ran"), (1, "skipped")}
