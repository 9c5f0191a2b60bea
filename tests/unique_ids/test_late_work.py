"""Work that goes on beyond its claim, on mediums that are not the work's."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from idempotency.exceptions import OperationInProgress, StoreUnavailable
from tests.project.models import Order
from tests.unique_ids.conftest import CLAIM, apart, claimed, die, run, wait_until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])


@apart
def test_what_is_said_late_of_an_id_is_not_heard(made):
    """A process that was halted beyond its deadline, and another that has the id by now."""
    ids = made(CLAIM=CLAIM)
    late = die(ids)
    wait_until(lambda: not claimed(ids))
    with ids.once("a"):
        ids.store.give_up([late.digest], late._nonce)
        ids.store.finish(late.digest, late._nonce)
        assert isinstance(run(ids), OperationInProgress)
        assert "a" not in ids
    late.store.give_up([late.digest], late._nonce)
    assert run(ids) == "handled"


@apart
def test_what_is_said_late_counts_while_nobody_else_had_the_id(made):
    ids = made(CLAIM=CLAIM)
    late = die(ids)
    wait_until(lambda: not claimed(ids))
    ids.store.finish(late.digest, late._nonce)
    assert run(ids) == "handled"


def outlast_the_claim(ids, other=None):
    """Work that goes on beyond its claim; ``other`` comes as soon as it may."""

    def work():
        end = time.monotonic() + CLAIM.total_seconds() + 0.05
        wait_until(lambda: time.monotonic() > end)
        if other:
            other()

    return run(ids, work=work)


@apart
def test_work_that_outlasts_its_claim_is_kept_when_nobody_else_had_the_id(made):
    ids = made(CLAIM=CLAIM)
    assert outlast_the_claim(ids) == "ran"
    assert run(ids) == "handled"
    assert Order.objects.count() == 1


@apart
def test_work_that_outlasts_its_claim_is_rolled_back_when_somebody_else_had_the_id(made):
    ids = made(CLAIM=CLAIM)
    refusal = outlast_the_claim(ids, other=lambda: ids.add("a"))
    assert isinstance(refusal, OperationInProgress)
    assert "was rolled back" in str(refusal)
    assert not Order.objects.exists()
    assert "a" in ids


@apart
def test_work_that_outlasts_its_claim_is_rolled_back_while_somebody_else_is_at_it(made):
    ids = made(CLAIM=CLAIM)
    others = []
    assert isinstance(outlast_the_claim(ids, other=lambda: others.append(die(ids))), OperationInProgress)
    assert not Order.objects.exists()
    # And takes nothing from the other.
    others[0].store.finish(others[0].digest, others[0]._nonce)
    assert run(ids) == "handled"


@apart
def test_confirmed_a_claim_runs_anew(made):
    ids = made(CLAIM=timedelta(seconds=30))
    guard = die(ids)
    before = run(ids).retry_after
    store = ids.store
    store.claim_for = timedelta(seconds=90)
    assert store.confirm(guard.digest, guard._nonce)
    assert run(ids).retry_after > before + 30


@apart
def test_work_that_cannot_be_confirmed_is_rolled_back_before_its_id_is_free(
    made, seen_when_given_up, monkeypatch
):
    ids = made(CLAIM=CLAIM)

    def away(*arguments):
        raise StoreUnavailable

    monkeypatch.setattr(type(ids.store), "confirm", away)
    with pytest.raises(StoreUnavailable):
        outlast_the_claim(ids)
    assert seen_when_given_up == [False]


@apart
def test_a_claim_runs_from_the_first_attempt_at_it_on(made, monkeypatch):
    """A reply that was lost is waited for, and the second attempt is told that the id is its own."""
    ids, asked = made(CLAIM=CLAIM), []
    store = type(ids.store)
    claim, confirm = store.claim, store.confirm

    def claim_late(*arguments):
        said = claim(*arguments)
        asked.append("claim")
        if len(asked) == 1:
            end = time.monotonic() + CLAIM.total_seconds() / 2
            wait_until(lambda: time.monotonic() > end)
            raise StoreUnavailable
        return said

    def note(*arguments):
        asked.append("confirm")
        return confirm(*arguments)

    monkeypatch.setattr(store, "claim", claim_late)
    monkeypatch.setattr(store, "confirm", note)
    assert run(ids) == "ran"
    assert asked == ["claim", "claim", "confirm"]
