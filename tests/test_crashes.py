"""Processes, database sessions and clients that end in the middle of an operation."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import ONCE
from tests.processes.gates import Gate
from tests.processes.programs import printed_by
from tests.processes.server import Server
from tests.project.models import Order, Product
from tests.settings import VENDOR

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]

STUCK = 5
"""Seconds in which a database server must have noticed that a client is gone."""

ATOMIC = {"SERVED_ATOMIC": "yes"}
mariadb_only = pytest.mark.skipif(VENDOR != "mariadb", reason="is about InnoDB")
has_sessions = pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite is a file: it has no sessions to end")


def each_line(moments):
    """That the lines between what is sent make no difference is shown with one database and driver."""
    return {"moments": moments} if ONCE else {}


def crash_at_each_moment(
    operation, accident, moments="sent", files=frozenset({"records/guard.py", "records/base.py"}), **options
):
    """See tests.processes.crashes."""
    told = json.loads(printed_by("crashes", operation, accident, moments, **options))
    assert files <= {place.partition(":")[0] for place in told["places"]}
    if accident == "kill":
        assert_lines_between_what_is_sent_make_no_difference(told["crashes"])
    return told["crashes"]


def assert_lines_between_what_is_sent_make_no_difference(crashes):
    left = {}
    for crash in crashes:
        before = {**crash["retry"]["before"], "order": None}
        assert left.setdefault(crash["sent"], before) == before, crash


def assert_one_effect(crash):
    """The first attempt left all or nothing; the retry has the answer, and nothing was done twice."""
    retry, before = crash["retry"], crash["retry"]["before"]
    assert before["orders"] == before["products"] == before["records"] <= 1, crash
    assert retry["status"] == 201, crash
    assert retry["orders"] == retry["products"] == retry["records"] == 1, crash
    assert json.loads(retry["body"]) == {"id": retry["order"][0], "reference": crash["key"]}, crash
    assert retry["seconds"] < STUCK, crash


def assert_one_refusal(crash):
    """The view's own refusal: recorded, without its writes."""
    retry, before = crash["retry"], crash["retry"]["before"]
    assert before["orders"] == before["products"] == 0, crash
    assert retry["status"] == 400, crash
    assert (retry["orders"], retry["products"], retry["records"]) == (0, 0, 1), crash
    assert retry["seconds"] < STUCK, crash


@pytest.mark.parametrize(
    ("operation", "options"),
    [
        pytest.param(
            "request", each_line("all"), id="request", marks=[pytest.mark.psycopg3, pytest.mark.pgbouncer]
        ),
        pytest.param("request", ATOMIC, id="request under ATOMIC_REQUESTS"),
        pytest.param("request", {"SERVED_AS_MYSQL": "yes"}, id="request on MySQL", marks=mariadb_only),
        pytest.param("function", {}, id="function"),
        pytest.param("replay", {}, id="replay"),
    ],
)
def test_killed_on_any_line_an_operation_still_happens_once(operation, options):
    for crash in crash_at_each_moment(operation, "kill", **options):
        assert crash["signal"] == signal.SIGKILL, crash
        assert_one_effect(crash)


@pytest.mark.parametrize("options", [{}, ATOMIC], ids=["", "ATOMIC_REQUESTS"])
def test_killed_on_any_line_a_refusing_view_still_refuses_without_an_effect(options):
    for crash in crash_at_each_moment("refusal", "kill", **options):
        assert crash["signal"] == signal.SIGKILL, crash
        assert_one_refusal(crash)


@has_sessions
@pytest.mark.parametrize("options", [{}, ATOMIC], ids=["", "ATOMIC_REQUESTS"])
def test_with_its_session_ended_on_any_line_an_operation_still_happens_once(options):
    crashes = crash_at_each_moment("request", "end-session", **options)
    assert any(crash["answer"]["ended"] for crash in crashes)
    for crash in crashes:
        answer, before = crash["answer"], crash["retry"]["before"]
        assert answer["status"] in (201, 409, 500, 503), crash
        assert answer["status"] != 201 or answer["body"] == crash["retry"]["body"], crash
        assert answer["status"] != 201 or before["orders"] == 1, crash
        assert_one_effect(crash)


# Against a server


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "server.log") as server:
        yield server


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


def retry_until_answered(server, key):
    deadline = time.monotonic() + STUCK
    while (answer := server.post("/race/", {"reference": "a"}, key)).refused:
        assert time.monotonic() < deadline, "the key was not freed"
        time.sleep(0.01)
    return answer


def effects():
    return Order.objects.count(), Product.objects.count()


def test_a_client_that_hung_up_gets_the_response_when_it_retries(server, gate):
    client = server.ask("/race/", {"reference": "a"}, "key", gate.headers)
    gate.wait_for(1)
    client.close()
    gate.release()
    assert retry_until_answered(server, "key").status == 201
    assert effects() == (1, 1)


def test_a_server_killed_in_the_middle_of_a_request_leaves_nothing_and_the_key_free(server, gate):
    client = server.ask("/race/", {"reference": "a"}, "key", gate.headers)
    gate.wait_for(1)
    server.kill()
    client.close()
    assert effects() == (0, 0)
    server.start()
    answer = retry_until_answered(server, "key")
    assert answer.status == 201
    assert not answer.replayed
    assert effects() == (1, 1)
    assert server.post("/race/", {"reference": "a"}, "key").replayed


def test_a_server_killed_again_and_again_lets_the_operation_happen_once(server):
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            with Gate() as gate:
                call = pool.submit(server.ask, "/race/", {"reference": "a"}, "key", gate.headers)
                gate.wait_for(1)
                server.kill()
                call.result().close()
                server.start()
    assert retry_until_answered(server, "key").status == 201
    assert effects() == (1, 1)
