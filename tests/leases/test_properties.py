"""Random programs of steps and random crash points, against a model of what must have happened."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idempotency.decorators import idempotent
from idempotency.exceptions import BrokenCall, OutcomeUnknown
from idempotency.leases import LeaseGuard
from idempotency.leases.completing import Completer
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps import NOT_DONE, Done, database_step, operation, outside_call
from tests.conftest import let_lease_pass
from tests.project.models import Order
from tests.test_properties import REPEATABLE

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """Of which the process says nothing more."""


class Declined(Exception):
    pass


class World:
    """What is outside, and when the next process dies: after so many moments in which it could."""

    def __init__(self, deaths):
        self.deaths = list(deaths)
        self.left = None
        self.charged = Counter()
        self.asked = Counter()
        self.begin()

    def begin(self):
        self.left = self.deaths.pop(0) if self.deaths else None

    def moment(self):
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1


WORLD = World([])


@database_step(refusals=(Declined,))
def write(number, refuse):
    WORLD.moment()
    Order.objects.create(reference=str(number))
    WORLD.moment()
    if refuse:
        raise Declined(number)
    return number


def charge(number, key, *, is_idempotent):
    """Dies before or after money moves, or not."""
    WORLD.moment()
    WORLD.asked[number] += 1
    if not (is_idempotent and WORLD.charged[key]):
        WORLD.charged[key] += 1
    WORLD.moment()
    return [number, key]


def ask(number, refuse):
    WORLD.moment()
    key = f"asked {number}"
    return Done([number, key]) if WORLD.charged[key] else NOT_DONE


@outside_call(when_broken="retry", refusals=(Declined,))
def call_by_key(number, refuse):
    if refuse:
        raise Declined(number)
    return charge(number, call_by_key.downstream_key, is_idempotent=True)


@outside_call(when_broken=ask, refusals=(Declined,))
def call_and_ask(number, refuse):
    if refuse:
        raise Declined(number)
    return charge(number, f"asked {number}", is_idempotent=False)


@outside_call(when_broken="unknown", refusals=(Declined,))
def call_blindly(number, refuse):
    if refuse:
        raise Declined(number)
    return charge(number, f"blind {number}", is_idempotent=False)


STEPS = [write, call_by_key, call_and_ask, call_blindly]
PROGRAM = []


@operation("test-random-programs", steps=STEPS)
def follow(reference):
    told = []
    for number, (step, refuse) in enumerate(PROGRAM):
        try:
            told.append(step(number, refuse))
        except Declined as refusal:
            told.append(f"declined {refusal.args[0]}")
        WORLD.moment()
    return told


run = idempotent(key="reference", mode="lease", operation="random programs")(follow)


@pytest.fixture
def the_dead_give_nothing_back(monkeypatch):
    give_back = LeaseGuard._give_back

    def unless_killed(self, failure):
        return None if isinstance(failure, Killed) else give_back(self, failure)

    monkeypatch.setattr(LeaseGuard, "_give_back", unless_killed)


def lived_through(attempt):
    """Its answer; None when it died, and nobody has tidied up after it."""
    WORLD.begin()
    try:
        return attempt()
    except (Killed, BrokenCall):
        let_lease_pass()
        OperationRun.objects.update(resume_at=None)
        return None


def retry():
    return run("a")


def complete():
    list(Completer("default").run())


def expected():
    """What the operation answers when nothing befalls it."""
    return [f"declined {number}" if refuse else number for number, (_, refuse) in enumerate(PROGRAM)]


@settings(**REPEATABLE, max_examples=200)
@given(
    program=st.lists(st.tuples(st.sampled_from(STEPS), st.booleans()), min_size=1, max_size=5),
    deaths=st.lists(st.integers(0, 12), max_size=6),
    who=st.lists(st.sampled_from([retry, complete]), min_size=6, max_size=6),
)
def test_whatever_dies_wherever_each_effect_is_had_once_or_is_known_to_be_unknown(
    the_dead_give_nothing_back, program, deaths, who
):
    global WORLD
    IdempotencyRecord.objects.all().delete()
    OperationRun.objects.all().delete()
    Order.objects.all().delete()
    PROGRAM[:] = program
    WORLD = World(deaths)
    unknown, answer = False, None
    try:
        lived_through(retry)
        for attempt in who:
            lived_through(attempt)
        WORLD.deaths = []
        answer = lived_through(retry)
    except OutcomeUnknown:
        unknown = True
    assert_each_effect_once(answer, unknown)


def assert_each_effect_once(answer, unknown):
    written = Counter(Order.objects.values_list("reference", flat=True))
    assert set(written.values()) | set(WORLD.charged.values()) <= {1}
    blind = [number for number, (step, _) in enumerate(PROGRAM) if step is call_blindly]
    assert all(WORLD.asked[number] <= 1 for number in blind)
    if unknown:
        assert blind
        return
    assert [each[0] if isinstance(each, list) else each for each in answer] == expected()
    assert written.keys() == {
        str(number) for number, (step, refuse) in enumerate(PROGRAM) if step is write and not refuse
    }
    assert sum(WORLD.charged.values()) == sum(step is not write and not refuse for step, refuse in PROGRAM)
