"""Processes and database sessions that end on each line of a change of a status or an amount."""

from __future__ import annotations

import signal

import pytest

from tests.processes.changes import STOCK
from tests.test_crashes import STUCK, crash_at_each_moment, each_line, has_sessions

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True)]

NEW = {"now": "new", "log": 0, "orders": 0, "parked": 0}
PACKED = {"now": "packed", "log": 1, "orders": 0, "parked": 0}


class Expected:
    """What there is without the operation, with it, and what a caller is told then, and the next."""

    def __init__(self, files, before, after, answer="applied", again="duplicate"):
        self.files, self.before, self.after, self.answer, self.again = files, before, after, answer, again

    def crashes(self, operation, accident="kill", **options):
        return crash_at_each_moment(operation, accident, files=self.files, **options)

    def assert_all_or_nothing(self, crash):
        retry = crash["retry"]
        assert retry["before"] in (self.before, self.after), crash
        was_done = retry["before"] == self.after
        assert retry["status"] == 200, crash
        assert retry["body"] == (self.again if was_done else self.answer), crash
        assert {name: retry[name] for name in self.after} == self.after, crash
        assert retry["seconds"] < STUCK, crash


EXPECTED = {
    # The event that waits for it is applied in the same transaction.
    "transition": Expected(
        {"status/guard.py", "status/change.py", "status/row.py", "status/log.py", "status/parking.py"},
        {**NEW, "parked": 1},
        {"now": "sent", "log": 2, "orders": 2, "parked": 0},
    ),
    "transition at once": Expected({"status/decision.py", "status/statement.py"}, NEW, PACKED),
    "guard": Expected({"status/guard.py", "status/change.py"}, NEW, {**PACKED, "orders": 1}),
    "park": Expected(
        {"status/guard.py", "status/parking.py"}, NEW, {**NEW, "parked": 1}, answer="parked", again="parked"
    ),
    "increment": Expected(
        {"ledger.py"}, {"now": STOCK, "log": 0}, {"now": STOCK - 3, "log": 1}, STOCK - 3, again=STOCK - 3
    ),
}


@pytest.mark.parametrize(
    "operation",
    [pytest.param(name, marks=pytest.mark.psycopg3 if name == "transition" else ()) for name in EXPECTED],
)
def test_killed_on_any_line_a_change_is_made_whole_or_not_at_all_and_once(operation):
    expected = EXPECTED[operation]
    crashes = expected.crashes(operation, **(each_line("first") if operation == "transition" else {}))
    for crash in crashes:
        assert crash["signal"] == signal.SIGKILL, crash
        expected.assert_all_or_nothing(crash)
    # Killed both before and after the commit.
    assert {str(crash["retry"]["before"]) for crash in crashes} == {str(expected.before), str(expected.after)}


@has_sessions
@pytest.mark.parametrize("operation", ["transition", "transition at once", "increment"])
def test_with_its_session_ended_on_any_line_a_change_is_made_whole_or_not_at_all_and_once(operation):
    expected = EXPECTED[operation]
    crashes = expected.crashes(operation, "end-session")
    assert any(crash["answer"]["ended"] for crash in crashes)
    for crash in crashes:
        answer = crash["answer"]
        assert answer["status"] in (200, 409, 503), crash
        assert answer["status"] != 200 or answer["body"] == expected.answer, crash
        assert answer["status"] != 200 or crash["retry"]["before"] == expected.after, crash
        expected.assert_all_or_nothing(crash)
