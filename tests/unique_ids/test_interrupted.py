"""Time limits, whose exceptions come between what a store is asked and its answer."""

from __future__ import annotations

import secrets
from datetime import timedelta

import pytest
from django.db import connections, transaction

from idempotency.unique_ids import unique_ids
from tests.processes.interruptions import TimeLimit, interrupted_after_sending
from tests.project.models import Order
from tests.unique_ids.conftest import apart, run, wait_until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
on_redis = pytest.mark.parametrize("medium", ["redis", "redis-cluster"], indirect=True)


@pytest.mark.parametrize("step", ["add", "claim"])
def test_what_was_interrupted_may_be_handled(made, monkeypatch, step):
    ids = made()
    store = type(ids.store)
    ask = getattr(store, step)

    def ask_and_be_stopped(*args):
        ask(*args)
        raise TimeLimit

    if step == "claim" and ids.store.database == "default":
        store, step, ask = type(ids.store), "join", store.join
    with monkeypatch.context() as patch:
        patch.setattr(store, step, ask_and_be_stopped)
        with pytest.raises(TimeLimit):
            ids.add_many(["a", "b"]) if step == "add" else run(ids)
    assert [run(ids), run(ids), run(ids, "b")] == ["ran", "handled", "ran"]


@on_redis
@pytest.mark.parametrize("use", ["add", "once", "discard", "in"])
def test_an_answer_that_was_not_read_is_not_another_ids(made, use):
    ids = made()
    assert [run(ids, "handled"), ids.add("warm")] == ["ran", True]
    with pytest.raises(TimeLimit), interrupted_after_sending("EVALSHA"):
        {
            "add": lambda: ids.add("a"),
            "once": lambda: run(ids, "a"),
            "discard": lambda: ids.discard("a"),
            "in": lambda: "a" in ids,
        }[use]()
    assert not ids.add("handled")
    assert [run(ids, "a"), run(ids, "handled"), run(ids, "b")] == ["ran", "handled", "ran"]


@on_redis
@pytest.mark.parametrize("step", ["add", "claim"])
def test_of_two_attempts_that_were_given_up_none_comes_late(made, step):
    ids = made()
    nonces = [secrets.token_bytes(16) for _ in range(2)]
    digest = ids.digest("a")
    for nonce in nonces:
        ids.store.give_up([digest], nonce)
    for nonce in nonces:
        ids.store.claim(digest, nonce) if step == "claim" else ids.store.add([digest], nonce)
    assert [run(ids), run(ids)] == ["ran", "handled"]


@pytest.mark.parametrize("medium", ["elsewhere"], indirect=True)
def test_nothing_is_claimed_within_a_transaction_that_could_undo_it(made):
    ids = made()
    refused = pytest.raises(transaction.TransactionManagementError, match="claimed in 'elsewhere' within")
    with transaction.atomic(using="elsewhere"), refused:
        run(ids)
    assert not Order.objects.exists()
    assert run(ids) == "ran"


@apart
def test_work_that_opens_a_transaction_there_is_none_of_that(made):
    ids = made()

    def work():
        with transaction.atomic(using="elsewhere"):
            pass

    assert run(ids, work=work) == "ran"


@pytest.mark.parametrize("medium", ["default", "elsewhere"], indirect=True)
def test_many_ids_are_added_in_a_few_queries_whether_they_are_new_or_not(made, django_assert_max_num_queries):
    ids = made()
    for expected in (True, False):
        with django_assert_max_num_queries(10, connection=connections[ids.store.database]):
            assert ids.add_many(map(str, range(500))) == [expected] * 500


def test_those_of_many_whose_time_is_over_are_new(made):
    ids = made(WINDOW=timedelta(milliseconds=200), SLICE=timedelta(milliseconds=50))
    assert ids.add_many(list("abc")) == [True] * 3
    wait_until(lambda: "c" not in ids)
    assert ids.add_many(list("abcd")) == [True] * 4


@pytest.mark.parametrize("ids", ["abc", b"abc"])
def test_one_text_is_not_several_ids(ids):
    with pytest.raises(TypeError, match="several ids, not one"):
        unique_ids().add_many(ids)
