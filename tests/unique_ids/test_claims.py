"""Claims on mediums that are not the work's, whose process died, came late, or failed."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db import transaction

from idempotency.exceptions import OperationInProgress
from idempotency.models import UniqueId
from idempotency.unique_ids import unique_ids
from tests.project.models import Order
from tests.unique_ids.conftest import CLAIM, apart, claimed, die, fail, run, wait_until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
on_unknown = pytest.mark.parametrize("on_unknown", ["run", "discard"])


def until_claim_is_over(ids, id="a"):
    """What a redelivery is told that comes as soon as it may."""
    told = []

    def asked():
        told[:] = [run(ids, id)]
        return not isinstance(told[0], OperationInProgress)

    wait_until(asked)
    return told[0]


@apart
def test_a_redelivery_before_the_deadline_is_told_to_wait(made):
    ids = made(CLAIM=timedelta(seconds=90))
    die(ids)
    refusal = run(ids)
    assert isinstance(refusal, OperationInProgress)
    assert isinstance(refusal.retry_after, int)
    assert 80 < refusal.retry_after <= 90
    assert not Order.objects.exists()


@apart
def test_told_to_wait_for_less_than_a_second_it_is_a_second(made):
    ids = made(CLAIM=timedelta(milliseconds=700))
    die(ids)
    assert run(ids).retry_after == 1


@apart
@pytest.mark.parametrize(("on_unknown", "told"), [("run", "ran"), ("discard", "handled")])
def test_a_redelivery_after_the_deadline_runs_or_is_discarded_as_set(made, on_unknown, told):
    ids = made(CLAIM=CLAIM, ON_UNKNOWN=on_unknown)
    began = time.monotonic()
    die(ids)
    assert until_claim_is_over(ids) == told
    assert time.monotonic() - began >= CLAIM.total_seconds()
    assert run(ids) == "handled"
    assert Order.objects.count() == (told == "ran")


@apart
@on_unknown
def test_an_id_is_in_them_when_its_claim_is_over_and_that_counts_as_handled(made, on_unknown):
    ids = made(CLAIM=CLAIM, ON_UNKNOWN=on_unknown)
    die(ids)
    assert "a" not in ids
    # Made later, and over later.
    die(ids, "b")
    wait_until(lambda: not claimed(ids, "b"))
    assert ("a" in ids) == (on_unknown == "discard")


@apart
def test_an_unknown_outcome_counts_as_handled_for_the_whole_window(made):
    window = timedelta(milliseconds=400)
    ids = made(CLAIM=CLAIM, WINDOW=window, ON_UNKNOWN="discard")
    began = time.monotonic()
    die(ids)
    wait_until(lambda: "a" in ids)
    wait_until(lambda: "a" not in ids)
    assert time.monotonic() - began >= (CLAIM + window).total_seconds()
    assert run(ids) == "ran"


@apart
@on_unknown
def test_adding_is_refused_before_the_deadline_and_goes_as_set_after_it(made, on_unknown):
    ids = made(CLAIM=CLAIM, ON_UNKNOWN=on_unknown)
    die(ids)
    with pytest.raises(OperationInProgress) as refusal:
        ids.add("a")
    assert refusal.value.retry_after == 1

    def added():
        try:
            return [ids.add("a")]
        except OperationInProgress:
            return None

    told = []
    wait_until(lambda: told.extend(added() or []) or told)
    assert told == [on_unknown == "run"]
    assert "a" in ids


@apart
def test_discarding_is_refused_before_the_deadline_and_frees_the_id_after_it(made):
    ids = made(CLAIM=CLAIM, ON_UNKNOWN="discard")
    die(ids)
    assert claimed(ids).retry_after == 1
    wait_until(lambda: not claimed(ids))
    assert "a" not in ids
    assert run(ids) == "ran"


@pytest.mark.parametrize("medium", ["elsewhere"], indirect=True)
def test_discarding_is_not_lost_on_a_deadline_that_passes_meanwhile(made, monkeypatch):
    ids = made(CLAIM=CLAIM, ON_UNKNOWN="discard")
    guard = die(ids)
    store, end = type(ids.store), time.monotonic() + CLAIM.total_seconds() + 0.05
    find = store._find

    def find_late(*arguments):
        wait_until(lambda: time.monotonic() > end)
        return find(*arguments)

    monkeypatch.setattr(store, "_find", find_late)
    ids.discard("a")
    assert not ids.store.contains(guard.digest)


@apart
def test_of_many_with_one_that_is_claimed_none_is_added(made):
    ids = made()
    ids.add("c")
    die(ids, "b")
    with pytest.raises(OperationInProgress) as refusal:
        ids.add_many(["a", "b", "c", "d"])
    assert 290 < refusal.value.retry_after <= 300
    assert [id in ids for id in "abcd"] == [False, False, True, False]
    assert ids.add_many(["a", "d"]) == [True, True]


def test_a_failure_is_rolled_back_and_its_id_may_be_handled_again(made):
    ids = made()
    fail(ids)
    assert not Order.objects.exists()
    assert "a" not in ids
    assert run(ids) == "ran"
    assert Order.objects.count() == 1


@apart
def test_a_failure_is_rolled_back_before_its_id_is_free(made, seen_when_given_up):
    fail(made())
    assert seen_when_given_up == [False]


@apart
def test_a_failure_is_kept_where_that_is_the_policy(made):
    ids = made(ON_FAILURE="keep")
    fail(ids)
    assert run(ids) == "handled"
    fail(ids, "b", on_failure="discard")
    assert run(ids, "b") == "ran"
    # Without a transaction of the guard's own, what was written stays.
    assert sorted(Order.objects.values_list("reference", flat=True)) == ["a", "b"]


def test_in_the_database_of_the_work_a_failure_frees_the_id_whatever_the_policy():
    fail(unique_ids(), on_failure="keep")
    assert not UniqueId.objects.exists()
    assert run(unique_ids()) == "ran"


@apart
def test_an_id_is_handled_only_when_its_work_has_committed(made):
    ids = made()
    with ids.once("a"):
        assert "a" not in ids
        assert isinstance(claimed(ids), OperationInProgress)
    assert "a" in ids


@apart
def test_an_outer_transaction_that_rolls_back_leaves_the_claim_to_its_deadline(made):
    ids = made(CLAIM=CLAIM)
    with pytest.raises(LookupError), transaction.atomic():
        assert run(ids) == "ran"
        raise LookupError
    assert "a" not in ids
    assert until_claim_is_over(ids) == "ran"
    assert Order.objects.count() == 1


@apart
def test_an_outer_transaction_counts_when_it_commits(made):
    ids = made()
    with transaction.atomic():
        assert run(ids) == "ran"
        assert "a" not in ids
    assert run(ids) == "handled"


def test_in_the_database_of_the_work_an_outer_transaction_takes_the_id_with_it():
    with pytest.raises(LookupError), transaction.atomic():
        assert run(unique_ids()) == "ran"
        raise LookupError
    assert run(unique_ids()) == "ran"
    with pytest.raises(LookupError), transaction.atomic():
        assert unique_ids().add("b")
        raise LookupError
    assert unique_ids().add("b")
