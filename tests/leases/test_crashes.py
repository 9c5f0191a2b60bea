"""SIGKILL on the lines of paying, and around all that is sent; then the caller retries."""

from __future__ import annotations

import json
import signal

import pytest
from django.db import connection

from tests.processes.programs import printed_by
from tests.test_crashes import each_line, has_sessions

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
has_row_locks = connection.vendor != "sqlite"
FILES = {"leases/guard.py", "leases/lease.py", "leases/store.py", "steps/run.py"}


def crashes(provider, operation, accident, moments="sent"):
    """See tests.processes.crashes."""
    told = json.loads(printed_by("crashes", operation, accident, moments, PROVIDER_URL=provider.url))
    assert {place.partition(":")[0] for place in told["places"]} >= FILES
    return told["crashes"]


def assert_paid_once(crash):
    retry = crash["retry"]
    assert crash["retry"]["before"]["charges"] <= 1, crash
    assert (retry["status"], retry["charges"], retry["orders"]) == (201, 1, ["paid"]), crash


MEANINGS = pytest.mark.parametrize(
    ("meaning", "is_idempotent"), [("retry", True), ("reconcile", False)], ids=["retry", "reconcile"]
)


@MEANINGS
@pytest.mark.parametrize("operation", ["pay", "go on", "complete"])
def test_killed_on_any_line_the_customer_is_charged_exactly_once(provider, operation, meaning, is_idempotent):
    provider.reset(is_idempotent=is_idempotent)
    for crash in crashes(provider, f"{operation} {meaning}", "kill"):
        assert crash["signal"] == signal.SIGKILL, crash
        assert_paid_once(crash)


@pytest.mark.soak
@MEANINGS
def test_killed_on_each_line_that_is_run_the_customer_is_charged_exactly_once(
    provider, meaning, is_idempotent
):
    provider.reset(is_idempotent=is_idempotent)
    for crash in crashes(provider, f"pay {meaning}", "kill", **each_line("all")):
        assert_paid_once(crash)


def test_killed_on_any_line_the_customer_is_charged_once_or_the_outcome_is_unknown(provider):
    provider.reset(is_idempotent=False)
    ended = crashes(provider, "pay unknown", "kill")
    for crash in ended:
        retry = crash["retry"]
        if retry["status"] == 409:
            assert "outcome-unknown" in retry["body"], crash
            assert (retry["orders"], retry["charges"] <= 1) == (["reserved"], True), crash
        else:
            assert_paid_once(crash)
    unknown = [crash for crash in ended if crash["retry"]["status"] == 409]
    # Between the intention and the result, before and after the call.
    assert {crash["retry"]["charges"] for crash in unknown} == {0, 1}
    assert len(unknown) < len(ended) / 2


@has_sessions
@MEANINGS
def test_with_its_session_ended_on_any_line_the_customer_is_charged_exactly_once(
    provider, meaning, is_idempotent
):
    provider.reset(is_idempotent=is_idempotent)
    for crash in crashes(provider, f"pay {meaning}", "end-session"):
        assert crash["answer"]["status"] in (201, 409, 500, 503), crash
        assert_paid_once(crash)


def test_killed_on_any_line_what_may_be_run_again_happens_once():
    told = json.loads(printed_by("crashes", "lease", "kill", "sent"))
    for crash in told["crashes"]:
        before, retry = crash["retry"]["before"], crash["retry"]
        assert before["orders"] == before["products"] <= 1, crash
        assert (retry["status"], retry["orders"], retry["products"]) == (201, 1, 1), crash


# Each of them that is halted in a transaction keeps all others from writing for as long as they would wait.
slow_on_sqlite = () if has_row_locks else pytest.mark.soak


@pytest.mark.parametrize(
    ("operation", "once"),
    [
        pytest.param("pay retry", {"orders": ["paid"], "charges": 1}, id="steps", marks=slow_on_sqlite),
        pytest.param("lease", {"orders": 1, "products": 1}, id="no steps"),
    ],
)
def test_halted_for_longer_than_its_lease_an_owner_rolls_back_and_has_the_winners_answer(
    provider, operation, once
):
    told = json.loads(
        printed_by(
            "crashes",
            operation,
            "halt",
            "sent",
            PROVIDER_URL=provider.url,
            SERVED_IMPATIENT="yes",
            timeout=120,
        )
    )
    overtaken = [crash for crash in told if crash["retry"]["status"] == 201]
    for crash in told:
        assert once.items() <= crash["last"].items(), crash
        assert crash["late"]["status"] in (201, 409, 503), crash
    for crash in overtaken:
        assert crash["late"]["status"] != 201 or crash["late"]["body"] == crash["retry"]["body"], crash
    # The others were halted within a transaction, and kept whoever came waiting.
    assert overtaken
