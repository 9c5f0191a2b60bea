"""A worker that is killed on each line of handling a message, which is then delivered again."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import State, beside_postgresql
from tests.test_crashes import crash_at_each_moment

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), beside_postgresql]
FILES = {f"consumers/{name}.py" for name in ("worker", "sources", "handling", "consumer", "guards")}

SMS = ("sms.again", "sms.once", "sms.asked")


@pytest.fixture(params=["sent", pytest.param("first", marks=pytest.mark.soak)])
def crashes(request, gateway, tmp_path):
    """``crashes(operation)``: before and after each thing that a server is sent, or on each line."""

    def crashes(operation, files=frozenset()):
        return told_of(operation, request.param, gateway, tmp_path, files)

    return crashes


def told_of(operation, moments, gateway, tmp_path, files):
    """What was done, and what the broker was told, before the message came again and after that."""
    options = {"SMS_GATEWAY_URL": gateway.url, "NOTES": str(tmp_path)}
    for crash in crash_at_each_moment(operation, "kill", moments, files=FILES | files, **options):
        assert crash["signal"] == signal.SIGKILL, crash
        retry, before = crash["retry"], crash["retry"]["before"]
        if before["acknowledged"]:
            assert before["state"] == State.COMPLETED or before["dead"] == before["aside"] == 1, crash
        # Whatever became of it, the broker was told in the end.
        assert retry["acknowledged"], crash
        assert (retry["failed"] == 1) == (retry["dead"] == 1) == (retry["aside"] > 0), crash
        yield crash, retry, before


@pytest.mark.parametrize(
    "name", ["orders.place", pytest.param("sms.again", marks=pytest.mark.soak), "sms.asked"]
)
def test_killed_on_any_line_a_message_is_handled_once(name, crashes):
    for crash, retry, before in crashes(f"consume {name}"):
        assert before["done"] <= 1, crash
        assert (retry["done"], retry["state"], retry["aside"]) == (1, State.COMPLETED, 0), crash


def test_killed_on_any_line_what_must_not_happen_twice_happens_or_is_unknown(crashes):
    told = set()
    for crash, retry, before in crashes("consume sms.once"):
        told.add((before["done"], retry["done"], retry["state"]))
        assert (retry["state"] == State.UNKNOWN) == (retry["aside"] == 1), crash
    assert told == {
        # Killed before the claim, under it, after the SMS, and after the commit.
        (0, 1, State.COMPLETED),
        (0, 0, State.UNKNOWN),
        (1, 1, State.UNKNOWN),
        (1, 1, State.COMPLETED),
    }


@pytest.mark.parametrize(
    "name",
    ["orders.place", *(pytest.param(name, marks=pytest.mark.soak) for name in SMS)],
)
def test_killed_on_any_line_of_failing_a_message_is_given_up_in_the_end(name, crashes):
    for crash, retry, before in crashes(f"consume {name} in vain", files={"consumers/failures.py"}):
        assert (before["done"], retry["done"]) == (0, 0), crash
        assert retry["aside"] >= 1, crash
