"""Many processes that want one lock, some of which are killed inside."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from tests.locks.conftest import enter, shortest_ttl, wait_until
from tests.processes.gates import STUCK

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.race]
PROCESSES = 8
SLACK = 1.5
"""Seconds within which a waiter finds out: ZooKeeper counts in ticks, and this machine may be busy."""


def race(holders, witness, name, alias, rounds, configuration=None, processes=PROCESSES):
    """Each of these goes on until it was inside so often."""
    contenders = [holders.new(**(configuration or {})) for _ in range(processes)]
    options = {"name": name, "alias": alias, "witness": witness.port, "rounds": rounds, "wait": 2 * STUCK}
    for number, contender in enumerate(contenders):
        contender.order("race", who=str(number), **options)
    return contenders


@pytest.mark.parametrize("rounds", [20, pytest.param(1_000, marks=pytest.mark.soak)])
def test_never_two_are_inside_and_everybody_gets_in(holders, witness, name, contested, rounds):
    contenders = race(holders, witness, name, contested, rounds)
    assert [contender.answer() for contender in contenders] == [None] * PROCESSES
    assert witness.most == 1
    assert Counter(witness.visits) == {str(number): rounds for number in range(PROCESSES)}


@pytest.mark.crash
def test_a_holder_that_is_killed_frees_it_within_its_ttl(holders, witness, name, contested):
    ttl = shortest_ttl(contested)
    configuration = {"locks": {contested: {"TTL": ttl}}}
    victim, heir = (holders.new(**configuration) for _ in range(2))
    options = {"name": name, "alias": contested, "witness": witness.port}
    enter(victim, who="victim", **options)
    heir.order("enter", who="heir", wait=STUCK, **options)
    # Renewed by now, for longer than its ttl.
    stays = time.monotonic() + 1.5 * ttl
    wait_until(lambda: time.monotonic() > stays)
    assert witness.visits == ["victim"]
    victim.kill()
    killed_at = time.monotonic()
    witness.wait_until(lambda visits, inside: inside == ["heir"])
    assert time.monotonic() - killed_at < ttl + SLACK
    assert witness.most == 1
    assert heir.answer() is None
    assert heir.tell("leave") is None


@pytest.mark.soak
@pytest.mark.crash
def test_a_storm_in_which_holders_are_killed(holders, witness, name, contested):
    # Long enough for a busy machine: whoever is slower than that is not alone inside, and not a failure.
    configuration = {"locks": {contested: {"TTL": 2.0}}}
    contenders = race(holders, witness, name, contested, 200, configuration)
    chance = random.Random(contested)
    for _ in range(10):
        seen = len(witness.visits)
        witness.wait_until(lambda visits, inside, seen=seen: len(visits) >= seen + 20)
        contenders.pop(chance.randrange(len(contenders))).kill()
        contenders += race(holders, witness, name, contested, 200, configuration, processes=1)
    assert [contender.answer() for contender in contenders] == [None] * PROCESSES
    assert witness.most == 1
