"""The unique id's guard: the contract on every medium, and what unique ids alone promise."""

from __future__ import annotations

import pytest

from idempotency.exceptions import AlreadyHandled
from tests.guards.contract import GuardContract, OneWriterOnSQLite

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]),
    pytest.mark.psycopg3,
    pytest.mark.pgbouncer,
]


class UniqueIdContract(OneWriterOnSQLite, GuardContract):
    on_failure = "discard"

    @pytest.fixture(autouse=True)
    def medium(self, ids):
        self.ids = ids
        self.frees_on_failure = self.on_failure == "discard" or ids.alias == "default"

    def guard(self, key):
        return self.ids.once(key, on_failure=self.on_failure)


class TestDiscarding(UniqueIdContract):
    pass


class TestKeeping(UniqueIdContract):
    on_failure = "keep"


def test_an_id_is_new_once(ids):
    assert [ids.add("a"), ids.add("a"), ids.add("b")] == [True, False, True]


def test_it_is_in_them_when_it_was_added(ids):
    assert "a" not in ids
    ids.add("a")
    assert "a" in ids
    assert "A" not in ids


def test_many_are_added_in_one_go(ids):
    ids.add("b")
    assert ids.add_many(["a", "b", "c", "a"]) == [True, False, True, False]
    assert ids.add_many(str(number) for number in range(1000)) == [True] * 1000
    assert ids.add_many(["999", "1000"]) == [False, True]
    assert ids.add_many([]) == []


def test_a_discarded_id_may_be_handled_again(ids):
    ids.add("a")
    ids.discard("a")
    assert "a" not in ids
    assert ids.add("a")
    ids.discard("never there")


def test_a_guard_that_failed_may_be_entered_again(ids):
    guard = ids.once("a")
    with pytest.raises(LookupError), guard:
        raise LookupError
    with guard:
        pass
    with pytest.raises(AlreadyHandled), guard:
        pass
