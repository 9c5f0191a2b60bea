"""The example shop with two machines that handle its messages, on RabbitMQ or, for want of it, on files."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

from idempotency.keys import key_digest
from shop_example.demo.messaging import Messaging
from shop_example.demo.provider import Provider
from shop_example.demo.server import wait_for
from shop_example.demo.sms_gateway import SmsGateway
from tests import services
from tests.processes import ROOT
from tests.processes.gates import STUCK
from tests.processes.messaging import Queues
from tests.processes.shops import Shop, database, opened

QUEUE, LEASE_SECONDS = "order.paid", 1
SHELL = """
import json, sys, django
django.setup()
from idempotency.models import FailedMessage, InboxMessage, OutboxMessage
from shop_example.demo import whole_files
from shop_example.models import *
for line in sys.stdin:
    exec(json.loads(line))
    sys.stdout.flush()
"""
EVENTS = """
events = OutboxMessage.objects.filter(event_id__endswith={reference!r}).order_by("pk")
print(json.dumps([[event.event_id, event.ordering_key, json.loads(event.body)] for event in events]))
"""
# Again as by a publisher that died before it could note what it had published.
PUBLISH_TWICE = """
from django.core.management import call_command
for count in range(2):
    waiting = OutboxMessage.objects.filter(event_id__in={events!r}).update(state=OutboxMessage.State.WAITING)
    call_command("publish_outbox", verbosity=0)
print(2 * waiting)
"""
INBOX = "print(json.dumps([InboxMessage.objects.count(), FailedMessage.objects.count()]))"


class MessageShop(Shop):
    gateway: SmsGateway
    queues: Queues

    def __init__(self, server):
        super().__init__(server)
        self.machines = Messaging(server, "default", "consume", "sms.order-paid")
        command, environment = [sys.executable, "-c", SHELL], server.environment()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.shell = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def close(self):
        self.machines.close()
        self.shell.kill()
        self.shell.communicate()

    def run(self, code):
        """What it prints, a line, in a process of the shop's."""
        self.shell.stdin.write(json.dumps(code) + "\n")
        self.shell.stdin.flush()
        return json.loads(self.shell.stdout.readline())

    def events(self, order):
        return self.run(EVENTS.format(reference=order["reference"]))

    def pay_all(self, order):
        status, _ = self.pay(order, order["total_cents"])
        assert status == 201

    def publish_twice(self, *orders):
        """The messages that these are paid. How many that were, with the copies."""
        return self.run(PUBLISH_TWICE.format(events=[event_of(order) for order in orders]))

    def counted_in_the_inbox(self):
        """Messages that are there, and those that have failed."""
        return self.run(INBOX)

    def sent(self, *orders):
        return [self.gateway.sent(order["reference"]) for order in orders]

    def wait_until_noted(self, what, order):
        wait_for(lambda: self.noted(what, order) > 0, f"a message to be {what}", STUCK)

    def noted(self, what, order):
        """By the machines, of the message that this order is paid."""
        return self.machines.noted(f"{what} sms.order-paid {key_digest(event_of(order)).hex()[:12]}")

    def wait_until_settled(self, number):
        """So many messages, with their copies."""
        settled = ("completed", "replayed")
        wait_for(lambda: self.machines.noted(settled) >= number, f"{number} messages to be settled", STUCK)

    def wait_until_asked(self, order):
        wait_for(lambda: self.gateway.asked(order["reference"]) > 0, "the gateway to be asked", STUCK)


def event_of(order):
    return f"order-paid-{order['reference']}"


@contextmanager
def opened_with_messages(folder, on_rabbitmq):
    """Without workers as yet."""
    provider, gateway, queues = Provider(), SmsGateway("--faults"), Queues()
    settings = {
        "SHOP_PROVIDER_URL": provider.url,
        "SHOP_SMS_GATEWAY_URL": gateway.url,
        "SHOP_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    MessageShop.gateway, MessageShop.queues = gateway, queues
    if on_rabbitmq:
        queues.declare(QUEUE)
        settings |= {"SHOP_BROKER_URL": services.rabbitmq.url, "SHOP_QUEUE_PREFIX": queues.prefix}
    try:
        with database(folder) as named, opened(folder, MessageShop, **settings, **named) as shop:
            try:
                yield shop
            finally:
                shop.close()
    finally:
        provider.close()
        gateway.close()
        if on_rabbitmq:
            queues.delete()
