"""What is paid by card in the example shop, whose provider and server are the test's to disturb."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from idempotency.client import IdempotencyTransport, Retries
from shop_example.demo.provider import Provider
from shop_example.demo.server import wait_for
from tests.processes import ROOT
from tests.processes.gates import STUCK
from tests.processes.shops import Shop

LEASE_SECONDS = 1
PATIENT = Retries(attempts=500, pause=0.1, longest_pause=0.1, give_up_after=STUCK)
HELD = "work-slowly=30"
"""When the provider has moved the money, and the shop's rows are being changed."""


class CardShop(Shop):
    provider: Provider

    def pay_by_card(self, order, key="", **options):
        return self.ask("card-payments", {"order": order["id"]}, key, **options)

    def refund(self, payment, key="", **options):
        return self.ask("card-refunds", {"payment": payment["id"]}, key, **options)

    def ask(self, resource, payload, key="", until_answered=False, **options):
        if until_answered:
            options["transport"] = IdempotencyTransport(retries=PATIENT)
        answer = self.request("alice", f"/api/{resource}/", payload, key, **options)
        return answer.status, json.loads(answer.body)

    def paid_by_card(self, **options):
        """An order and its payment."""
        order = self.order(**options)
        status, payment = self.pay_by_card(order)
        assert status == 201
        return order, payment

    def charged(self, order):
        return self.provider.charged(order["reference"])

    def paid(self, order):
        """In cents, by card."""
        payments = self.send("alice", "/api/card-payments/", "GET")[1]["results"]
        mine = [payment for payment in payments if payment["order"] == order["id"]]
        return sum(payment["amount_cents"] for payment in mine if payment["status"] == "paid")

    @contextmanager
    def killed_midway(self, ask):
        """Let somebody pay, or be paid back, and kill the server when the provider has moved the money."""
        self.server.marker.unlink(missing_ok=True)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, fault=HELD)
            wait_for(self.server.marker.exists, "the money to be moved", STUCK)
            self.server.kill()
            with pytest.raises(httpx.TransportError):
                waiting.result(STUCK)
        try:
            yield
        finally:
            self.server.start()

    def complete(self):
        """What the completer says, when the time is over of those who were killed."""
        time.sleep(LEASE_SECONDS)
        done = subprocess.run(
            [sys.executable, "manage.py", "complete_idempotency"],
            cwd=ROOT,
            env=self.server.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
