"""The shop's settlement and its shelves, by several processes, on every medium of locks."""

import os
import random
import signal
import subprocess
import sys
from datetime import date, timedelta

import pytest

from tests.processes import ROOT
from tests.processes.shops import database
from tests.settings import VENDOR

pytestmark = [
    pytest.mark.race,
    pytest.mark.skipif(VENDOR not in ("sqlite", "postgresql"), reason="the shop has a database of its own"),
]
LOAD = """
import sys, time
from functools import partial
import django
from django.conf import settings
from tests import settings as mediums
settings.CACHES = mediums.CACHES
settings.IDEMPOTENCY_LOCKS = {"default": mediums.IDEMPOTENCY_LOCKS.get(sys.argv[1], {})}
django.setup()
from datetime import *
from django.core.management import call_command
from shop_example import faults, picking, samples
from shop_example.exceptions import OutOfStock
from shop_example.models import *
from idempotency.exceptions import IdempotencyError
"""
FILL = """
call_command("migrate", verbosity=0)
samples.create_samples()
"""
# What the tests of one medium use; on the servers of locks, names that no other run has.
SELL = """
alice, pot = Customer.objects.get(), Product.objects.get(name="Tea pot")
order = alice.place_order(pot, 1)
payment = alice.pay(order, order.total_cents)
Payment.objects.filter(pk=payment.pk).update(created_at=datetime.fromisoformat("{day}T12:00+00:00"))
Shelf.objects.create(pk={shelf}, product=pot, place="{shelf}", pieces=1)
"""
COUNT = """
shelf = Shelf.objects.get(pk={shelf})
print(Payout.objects.filter(day="{day}").count(), shelf.pieces, shelf.picks.count())
"""
SHORTLY = "partial(faults.pause, 0.3)"
FAIL_WHEN_TOLD = "lambda: int(input())"
HALT = "faults.halt"
# The short ttl is for the one that is halted; ZooKeeper has the ttl of its sessions.
RUN = """
if fault is faults.halt:
    settings.IDEMPOTENCY_LOCKS["default"].setdefault("TTL", timedelta(seconds=1))
print("ready", flush=True)
input()
try:
    with faults.between_writes(fault):
        operation()
    print("done")
except (OutOfStock, IdempotencyError, ValueError) as error:
    print(type(error).__name__)
"""


class Shop:
    def __init__(self, environment, medium):
        self.environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "shop_example.settings", **environment}
        self.medium = medium
        self.day = date(2000, 1, 1) + timedelta(days=random.randrange(9_000))
        self.shelf = random.randrange(1, 2**31)
        self.processes = []

    def do(self, code, **pipes):
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD + code, self.medium],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            **pipes,
        )
        self.processes.append(process)
        return process

    def sell(self):
        assert self.do(self.about(SELL)).wait(60) == 0

    def about(self, code):
        return code.format(day=self.day, shelf=self.shelf)

    def start(self, operation, number=1, fault=SHORTLY):
        """Processes that are at the operation, or about to begin with it at the same time."""
        code = f"fault, operation = {fault}, {self.about(operation)}{RUN}"
        started = [self.do(code, stdin=subprocess.PIPE) for _ in range(number)]
        for process in started:
            assert process.stdout.readline() == "ready\n"
        for process in started:
            tell(process, "go")
        return started

    def run(self, *arguments, **options):
        return told(self.start(*arguments, **options))

    @property
    def left(self):
        """The day's payouts, pieces on the shelf, picks off it."""
        return tuple(map(int, self.do(self.about(COUNT)).communicate(timeout=60)[0].split()))

    def settle(self, *arguments):
        """As a timer does."""
        return subprocess.run(
            [sys.executable, "manage.py", "settle", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()


SETTLE = "lambda: call_command('settle', '{day}')"
TAKE = "lambda: picking.take({shelf})"


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def told(processes):
    """The last words of each, sorted: of one that settled, what the command printed."""
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    return sorted(lines[0] if lines[-1] == "done" else lines[-1] for lines in said)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    with database(tmp_path_factory.mktemp("shop")) as named:
        shop = Shop(named, "default")
        try:
            assert shop.do(FILL).wait(60) == 0
        finally:
            shop.close()
        yield named


@pytest.fixture
def shop(filled, medium):
    shop = Shop(filled, medium)
    try:
        shop.sell()
        yield shop
    finally:
        shop.close()


def test_a_settlement_that_every_machine_starts_is_booked_once(shop):
    booked, nothing = f"{shop.day}: payouts booked: 1", f"{shop.day}: nothing to do, another run has it"
    assert shop.run(SETTLE, 3) == [nothing, nothing, booked]
    assert shop.run(SETTLE) == [nothing]
    assert shop.left[0] == 1


def test_a_settlement_that_fails_is_taken_over_by_a_machine_that_waits(shop):
    (first,) = shop.start(SETTLE, fault=FAIL_WHEN_TOLD)
    waiting = shop.start(SETTLE)
    tell(first, "no number")
    assert told([first]) == ["ValueError"]
    assert told(waiting) == [f"{shop.day}: payouts booked: 1"]
    assert shop.left[0] == 1


def test_the_last_piece_is_sold_once(shop):
    assert shop.run(TAKE, 3) == ["OutOfStock", "OutOfStock", "done"]
    assert shop.left[1:] == (0, 1)


def test_a_holder_that_is_halted_does_not_sell_what_is_gone(shop):
    (halted,) = shop.start(TAKE, fault=HALT)
    assert os.WIFSTOPPED(os.waitpid(halted.pid, os.WUNTRACED)[1])
    assert shop.run(TAKE) == ["done"]
    halted.send_signal(signal.SIGCONT)
    assert told([halted]) == ["StaleFence"]
    assert shop.left[1:] == (0, 1)


@pytest.mark.parametrize("medium", ["default"])
def test_without_a_guard_or_with_a_plain_lock_it_is_booked_again_later(shop):
    for guard in ("none", "plain-lock"):
        assert shop.settle(str(shop.day), "--guard", guard).stdout == f"{shop.day}: payouts booked: 1\n"
    assert shop.left[0] == 2


@pytest.mark.parametrize("medium", ["default"])
def test_the_day_that_is_settled_is_yesterday(shop):
    days = {f"{date.today() - timedelta(days=ago)}: payouts booked: 0\n" for ago in (1, 2)}
    done = shop.settle()
    assert (done.returncode, done.stdout in days) == (0, True)
