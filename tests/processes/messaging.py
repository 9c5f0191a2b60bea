"""Brokers, workers and a gateway, each in a process of its own, for messages that come twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import kombu

from tests import services
from tests.processes import ROOT, consuming
from tests.processes.gates import STUCK


class Gateway:
    """The shop's SMS gateway; ends with this process."""

    def __init__(self):
        command = [sys.executable, "-m", "shop_example.sms_gateway", "0", "--until-eof", "--faults"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=self.url, transport=httpx.HTTPTransport(verify=False))

    def sent(self):
        """References of the messages that were sent, as often as they were."""
        messages = self.client.get("/messages").raise_for_status().json()["messages"]
        return [message["reference"] for message in messages]

    def lose_answers(self, reference, times=1):
        self.client.post("/faults", json={"reference": reference, "times": times}).raise_for_status()

    def close(self):
        self.client.close()
        self.process.kill()
        self.process.communicate()


class Queues:
    """Queues on RabbitMQ that no other test has; they are deleted in the end."""

    def __init__(self, url=services.rabbitmq.url):
        self.prefix = f"test.{uuid.uuid4().hex[:12]}."
        self.url = url
        self.names = set()

    @contextmanager
    def channel(self, **options):
        with (
            kombu.Connection(self.url, transport_options=options) as connection,
            connection.channel() as channel,
        ):
            yield channel

    def declare(self, name, **options):
        queue = self.named(name)
        if queue not in self.names or options:
            with self.channel() as channel:
                kombu.Queue(queue, channel=channel, durable=True, **options).queue_declare()
            self.names |= {queue, f"{queue}.dead"}
        return queue

    def named(self, name):
        return f"{self.prefix}{name}"

    def publish(self, name, *messages):
        """(headers, body) each, confirmed one by one."""
        queue = self.declare(name)
        with self.channel(confirm_publish=True) as channel:
            producer = kombu.Producer(channel)
            for headers, body, *options in messages:
                more = options[0] if options else {}
                producer.publish(body, routing_key=queue, headers=headers, delivery_mode=2, **more)

    def left(self, name):
        """How many wait to be handed out, those that are handed out besides not counted. None: there is no
        such queue."""
        with self.channel() as channel:
            queue = kombu.Queue(self.named(name), channel=channel, durable=True)
            try:
                return queue.queue_declare(passive=True).message_count
            except channel.connection.client.channel_errors:
                return None

    def left_in_all(self, name):
        """Of a queue that nobody consumes any more, once the broker has noticed that."""
        with self.channel() as channel:
            queue = kombu.Queue(self.named(name), channel=channel, durable=True)
            wait_until(lambda: queue.queue_declare(passive=True).consumer_count == 0)
            return queue.queue_declare(passive=True).message_count

    def taken(self, name):
        """All messages that are there, gone from the broker."""
        messages = []
        with self.channel() as channel:
            try:
                while message := channel.basic_get(self.named(name), no_ack=True):
                    messages.append(channel.message_to_python(message))
            except channel.connection.client.channel_errors:  # there never was such a queue
                pass
        return messages

    def dead(self, name):
        """The dead letters, gone from the broker."""
        return self.taken(f"{name}.dead")

    def delete(self):
        with self.channel() as channel:
            for name in self.names:
                kombu.Queue(name, channel=channel).delete()


class Workers:
    """Processes of `manage.py consume`. What they print is in files beside the log."""

    def __init__(self, log: Path, *names, queues, **options):
        self.log, self.names = log, names
        self.options = {"QUEUE_PREFIX": queues.prefix, "BROKER_URL": queues.url, **options}
        self.origin = consuming.origin()
        self.processes = []

    def start(self, number=1, *arguments):
        """And return when they may be stopped."""
        self.begin(number, *arguments)
        self.wait_for_all()

    def wait_for_all(self):
        wait_until(lambda: all(b"Handling" in log.read_bytes() for _, log in self.processes))

    def begin(self, number=1, *arguments):
        for _ in range(number):
            path = self.log.with_name(f"{self.log.name}-{uuid.uuid4().hex[:6]}")
            with path.open("wb") as log:
                pid = self.origin.start([*self.names, *arguments], self.options, log)
            self.processes.append((pid, path))

    def signal(self, number, index=0):
        os.kill(self.processes[index][0], number)

    def kill(self, index=0):
        pid, _ = self.processes.pop(index)
        os.kill(pid, signal.SIGKILL)
        self.origin.exit_code(pid)

    def wait(self, index=0):
        """Until it has ended by itself. Its exit code."""
        return self.origin.exit_code(self.processes.pop(index)[0])

    def stop(self):
        """As a supervisor does: each ends by itself. Their exit codes."""
        self.wait_for_all()
        for index in range(len(self.processes)):
            self.signal(signal.SIGCONT, index)
            self.signal(signal.SIGTERM, index)
        return [self.wait() for _ in range(len(self.processes))]

    def close(self):
        while self.processes:
            self.kill()


@contextmanager
def all_closed(*things):
    with ExitStack() as closing:
        for thing in things:
            closing.callback(thing.close)
        yield


def wait_until(condition, seconds=STUCK):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
