"""What becomes of the token, and of what was written, however the view ends."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection, transaction
from rest_framework.response import Response

from idempotency.models import IdempotencyToken
from tests.conftest import in_turn, problem
from tests.project import views
from tests.project.models import Order
from tests.settings import VENDOR

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]

IN_THE_DATABASE = ["default/consume", "default/restore"]
"""Medium and on_failure, which there has nothing to decide."""
HELD = [*IN_THE_DATABASE, "redis/restore"]
"""Where the guard holds the transaction of the work."""
PLACES = [*HELD, "redis/consume"]


@pytest.fixture(params=PLACES)
def place(request):
    in_turn(request.param.split("/")[0])
    return request.param


class Attempt:
    """One call, and what can be seen after it."""

    def __init__(self, caller, place, do):
        self.caller, self.path = caller, f"/{place}/"
        self.token = caller.token(place.split("/")[0])
        self.response = caller.spend(self.path, self.token, {"do": do})
        self.status = self.response.status_code
        self.orders = Order.objects.count()

    @property
    def spent(self):
        """Whether the retry is a duplicate; else it must run."""
        retry = self.caller.spend(self.path, self.token)
        assert not connection.in_atomic_block
        if retry.status_code == 409:
            assert Order.objects.count() == self.orders
            return problem(retry, 409, "duplicate")
        assert retry.status_code == 201
        assert Order.objects.count() == self.orders + 1
        return False

    @property
    def outcome(self):
        return self.status, self.orders, self.spent


SPENT, GOOD = True, False


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize(
    ("do", "status", "orders", "restoring", "joint"),
    [
        ("", 201, 1, SPENT, SPENT),
        ("empty", 204, 1, SPENT, SPENT),
        ("return-303", 303, 1, SPENT, SPENT),
        ("return-400", 400, 1, SPENT, SPENT),
        ("savepoint", 201, 1, SPENT, SPENT),
        ("hook", 201, 1, SPENT, SPENT),
        ("stream", 200, 1, SPENT, SPENT),
        # Refused on purpose, and rolled back: with a database token both are undone.
        ("raise-400", 400, 0, SPENT, GOOD),
        ("raise-418", 418, 0, SPENT, GOOD),
        ("swallow-400", 400, 0, SPENT, GOOD),
        # Not stored: failed.
        ("return-401", 401, 0, GOOD, GOOD),
        ("return-429", 429, 0, GOOD, GOOD),
        ("return-500", 500, 0, GOOD, GOOD),
        ("raise-403", 403, 0, GOOD, GOOD),
        ("raise", 500, 0, GOOD, GOOD),
        ("swallow-201", 500, 0, GOOD, GOOD),
        ("swallow-other-201", 500, 0, GOOD, GOOD),
        ("set-rollback", 500, 0, GOOD, GOOD),
        ("unrenderable", 500, 0, GOOD, GOOD),
        # The commit came before the hook.
        ("failing-hook", 500, 1, SPENT, SPENT),
    ],
)
@pytest.mark.parametrize("place", HELD, indirect=True)
def test_where_the_guard_holds_the_transaction(alice, place, do, status, orders, restoring, joint):
    spent = joint if place in IN_THE_DATABASE else restoring
    assert Attempt(alice, place, do).outcome == (status, orders, spent)


@pytest.mark.parametrize(
    ("do", "autocommit", "atomic"),
    [
        ("", (201, 1), (201, 1)),
        ("return-400", (400, 1), (400, 1)),
        ("return-429", (429, 1), (429, 1)),
        ("return-500", (500, 1), (500, 1)),
        ("savepoint", (201, 1), (201, 1)),
        ("raise-400", (400, 1), (400, 0)),
        ("raise-403", (403, 1), (403, 0)),
        ("raise", (500, 1), (500, 0)),
        ("unrenderable", (500, 1), (500, 0)),
        ("swallow-201", (201, 1), (201, 0)),
        ("swallow-400", (400, 1), (400, 0)),
        ("set-rollback", (500, 1), (200, 0)),
        ("failing-hook", (500, 1), (500, 1)),
    ],
)
@pytest.mark.parametrize("place", ["redis/consume"], indirect=True)
def test_consuming_in_redis_leaves_transactions_to_django(
    alice, place, do, autocommit, atomic, atomic_requests
):
    expected = atomic if atomic_requests else autocommit
    assert Attempt(alice, place, do).outcome == (*expected, SPENT)


@pytest.mark.parametrize("place", HELD, indirect=True)
def test_a_success_after_an_error_past_the_orm_is_none_without_its_writes(alice, place):
    attempt = Attempt(alice, place, "raw-swallow-201")
    if VENDOR in ("postgresql", "pgbouncer"):
        assert attempt.outcome == (500, 0, GOOD)
    else:
        assert attempt.outcome == (201, 1, SPENT)


@pytest.mark.parametrize("place", HELD, indirect=True)
def test_a_connection_that_the_view_closed_is_an_outage_and_spends_nothing(alice, place):
    attempt = Attempt(alice, place, "close")
    assert problem(attempt.response, 503, "store-unavailable")
    assert attempt.outcome == (503, 0, GOOD)


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("place", HELD, indirect=True)
def test_what_rolled_back_leaves_no_hook_behind(alice, monkeypatch, place):
    def hooked():
        views.hook()
        raise RuntimeError

    monkeypatch.setitem(views.ACTIONS, "hooked", hooked)
    assert Attempt(alice, place, "hooked").outcome == (500, 0, GOOD)
    assert views.HOOKS_RUN == []


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("place", HELD, indirect=True)
def test_a_view_may_fail_as_often_as_it_likes_and_then_run(alice, place):
    path, token = f"/{place}/", alice.token(place.split("/")[0])
    failures = [
        alice.spend(path, token, {"do": do}).status_code for do in ("raise", "return-500", "raise-403")
    ]
    assert failures == [500, 500, 403]
    assert alice.spend(path, token).status_code == 201
    assert problem(alice.spend(path, token), 409, "duplicate")
    assert Order.objects.count() == 1


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("place", IN_THE_DATABASE, indirect=True)
def test_in_one_database_consuming_commits_with_the_business(alice, monkeypatch, place):
    """The dilemma of deleting first or deleting after is gone: there is one commit."""
    seen = []

    def look():
        seen.append((transaction.get_connection().in_atomic_block, used_tokens()))
        return Response(status=500)

    monkeypatch.setitem(views.ACTIONS, "look", look)
    assert Attempt(alice, place, "look").outcome == (500, 0, GOOD)
    assert seen == [(True, 1)]
    assert used_tokens() == 1


def used_tokens():
    return IdempotencyToken.objects.exclude(nonce=None).count()


# Conflicts, which the database server itself reports here

DEADLOCK = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$",
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'deadlock'",
}


def deadlock():
    with connection.cursor() as cursor:
        cursor.execute(DEADLOCK[connection.vendor])


def swallowed_deadlock():
    try:
        deadlock()
    except OperationalError:
        return Response(status=201)


@pytest.fixture
def deadlocks(monkeypatch):
    if connection.vendor not in DEADLOCK:
        pytest.skip("SQLite has one writer: nobody deadlocks")
    monkeypatch.setitem(views.ACTIONS, "deadlock", deadlock)
    monkeypatch.setitem(views.ACTIONS, "swallowed-deadlock", swallowed_deadlock)


@pytest.mark.usefixtures("atomic_requests", "deadlocks")
@pytest.mark.parametrize("do", ["deadlock", "swallowed-deadlock"])
@pytest.mark.parametrize("place", HELD, indirect=True)
def test_a_lost_conflict_is_a_409_that_invites_to_retry_with_the_same_token(alice, place, do):
    attempt = Attempt(alice, place, do)
    assert problem(attempt.response, 409, "conflict")
    assert int(attempt.response["Retry-After"]) >= 1
    assert (attempt.orders, attempt.spent) == (0, GOOD)


@pytest.mark.usefixtures("deadlocks")
@pytest.mark.parametrize("place", ["redis/consume"], indirect=True)
def test_a_lost_conflict_is_the_views_own_where_its_transaction_is(alice, place):
    assert Attempt(alice, place, "deadlock").outcome == (500, 1, SPENT)


# Within a TestCase


@pytest.mark.django_db
@pytest.mark.parametrize("place", HELD, indirect=True)
def test_in_a_test_case_a_failure_is_undone_as_well(alice, place):
    assert connection.in_atomic_block
    token = alice.token(place.split("/")[0])
    assert alice.spend(f"/{place}/", token, {"do": "raise"}).status_code == 500
    assert not Order.objects.exists()
    assert alice.spend(f"/{place}/", token).status_code == 201
    assert problem(alice.spend(f"/{place}/", token), 409, "duplicate")
