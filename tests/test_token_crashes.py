"""Processes that are killed on each line of a request with a one-time token, and its retry."""

from __future__ import annotations

import json
import signal

import pytest

from tests.test_crashes import assert_one_effect, crash_at_each_moment, each_line

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]


def crashes(operation, **options):
    files = {"tokens/guard.py", "http.py"}
    found = crash_at_each_moment(operation, "kill", files=files, **options)
    for crash in found:
        assert crash["signal"] == signal.SIGKILL, crash
        yield crash, crash["retry"], crash["retry"]["before"]


def was_told(retry, status):
    return retry["status"] == status and (status != 409 or json.loads(retry["body"])["code"] == "duplicate")


def test_in_the_database_of_the_work_a_token_is_spent_by_what_was_done_and_by_nothing_else():
    for crash, retry, before in crashes("token-race default", **each_line("first")):
        assert before["orders"] == before["products"] <= 1, crash
        assert was_told(retry, 409 if before["orders"] else 201), crash
        assert retry["orders"] == retry["products"] == 1, crash


@pytest.mark.parametrize("alias", ["redis"], indirect=True)
@pytest.mark.parametrize("policy", ["token-race", "restored-token-race"])
def test_on_redis_a_token_runs_at_most_once_and_may_be_spent_on_nothing(alias, policy):
    told = set()
    for crash, retry, before in crashes(f"{policy} {alias}"):
        told.add(retry["status"])
        # Without restoring, the view's two writes are committed as the view likes, here one by one.
        assert policy == "token-race" or before["orders"] == before["products"], crash
        assert was_told(retry, 201) or was_told(retry, 409), crash
        assert retry["orders"] <= 1, crash
        assert retry["products"] <= 1, crash
        assert retry["status"] == 409 or before["orders"] == 0, crash
    assert told == {201, 409}


@pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)
def test_with_a_key_the_retry_is_never_turned_away(alias):
    for crash, _, _ in crashes(f"token-and-key-race {alias}"):
        assert_one_effect(crash)
