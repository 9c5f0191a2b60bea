"""Completers in processes of their own, beside each other and beside a caller that retries."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.conftest import Caller, in_a_thread, let_lease_pass
from tests.leases.test_faults import PAYMENT
from tests.processes.commands import commands
from tests.processes.gates import STUCK
from tests.processes.provider import Fault
from tests.project.models import Order

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
PAYMENTS = 12


@pytest.fixture
def start(provider):
    """``start("--loop")``: the command, in a process of its own."""
    with commands("complete_idempotency") as start:
        yield partial(start, PROVIDER_URL=provider.url)


def send(number):
    path, payment = "/pay-reconcile/", {**PAYMENT, "reference": f"order-{number}"}
    return in_a_thread(lambda: Caller("alice").once(path, payment, f"key-{number}", format="json"))


def send_until_answered(number):
    deadline = time.monotonic() + STUCK
    while (answer := send(number)).status_code != 201:
        assert answer.status_code == 409, answer.content
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return answer


def assert_all_paid_once(provider):
    charged = Counter(charge["reference"] for charge in provider.charges)
    paid = Counter(Order.objects.filter(note="paid").values_list("reference", flat=True))
    assert charged == paid == Counter({f"order-{number}": 1 for number in range(PAYMENTS)})
    assert Order.objects.count() == PAYMENTS


def test_of_completers_and_a_retrying_caller_at_once_one_goes_on(start, provider):
    provider.reset(is_idempotent=False)
    provider.befall(*[Fault.DROPPED, Fault.REFUSED] * (PAYMENTS // 2))
    for number in range(PAYMENTS):
        assert send(number).status_code == 409
    let_lease_pass()
    completers = [start() for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send_until_answered, [*range(PAYMENTS)] * 2))
    for completer in completers:
        said, _ = completer.communicate(timeout=STUCK)
        assert completer.returncode == 0, said
    assert_all_paid_once(provider)
    assert len({answer.content for answer in answers}) == PAYMENTS


def test_a_loop_goes_on_with_what_comes_and_ends_when_it_is_told_to(start, provider):
    loop = start("--loop", "--interval", "0.05")
    for number in range(PAYMENTS):
        provider.befall(Fault.DROPPED)
        send(number)
    done = 0
    while done < PAYMENTS:
        done += " done" in loop.stdout.readline() and 1
        assert loop.poll() is None
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(STUCK) == 0
    assert_all_paid_once(provider)
