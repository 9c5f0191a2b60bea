"""SIGKILL on the lines of paying, and around all that is sent; then the caller retries."""

from __future__ import annotations

import json
import signal

import pytest

from tests.processes.programs import printed_by
from tests.test_crashes import each_line, has_sessions

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
FILES = {"leases/guard.py", "leases/lease.py", "leases/store.py", "steps/run.py"}


def crashes(provider, meaning, accident, moments="sent"):
    """See tests.processes.crashes."""
    told = json.loads(
        printed_by("crashes", f"pay {meaning}", accident, moments, PROVIDER_URL=provider.url, timeout=500)
    )
    assert {place.partition(":")[0] for place in told["places"]} >= FILES
    return told["crashes"]


def assert_paid_once(crash):
    retry = crash["retry"]
    assert crash["retry"]["before"]["charges"] <= 1, crash
    assert (retry["status"], retry["charges"], retry["orders"]) == (201, 1, ["paid"]), crash


@pytest.mark.parametrize(("meaning", "is_idempotent"), [("retry", True), ("reconcile", False)])
def test_killed_on_any_line_the_customer_is_charged_exactly_once(provider, meaning, is_idempotent):
    provider.reset(is_idempotent=is_idempotent)
    for crash in crashes(provider, meaning, "kill", **each_line("all")):
        assert crash["signal"] == signal.SIGKILL, crash
        assert_paid_once(crash)


def test_killed_on_any_line_the_customer_is_charged_once_or_the_outcome_is_unknown(provider):
    provider.reset(is_idempotent=False)
    ended = crashes(provider, "unknown", "kill")
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
@pytest.mark.parametrize(("meaning", "is_idempotent"), [("retry", True), ("reconcile", False)])
def test_with_its_session_ended_on_any_line_the_customer_is_charged_exactly_once(
    provider, meaning, is_idempotent
):
    provider.reset(is_idempotent=is_idempotent)
    for crash in crashes(provider, meaning, "end-session"):
        assert crash["answer"]["status"] in (201, 409, 500, 503), crash
        assert_paid_once(crash)
