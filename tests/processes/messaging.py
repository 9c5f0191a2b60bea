"""Brokers, workers and a gateway, each in a process of its own, for messages that come twice."""

from __future__ import annotations

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
from tests.processes import ROOT, environment
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

    def declare(self, name):
        queue = f"{self.prefix}{name}"
        with self.channel() as channel:
            kombu.Queue(queue, channel=channel, durable=True).queue_declare()
        self.names |= {queue, f"{queue}.dead"}
        return queue

    def publish(self, name, *messages):
        """(headers, body) each, confirmed one by one."""
        queue = self.declare(name)
        with self.channel(confirm_publish=True) as channel:
            producer = kombu.Producer(channel)
            for headers, body in messages:
                producer.publish(body, routing_key=queue, headers=headers, delivery_mode=2)

    def left(self, name):
        """How many wait to be handed out, those that are handed out besides not counted."""
        with self.channel() as channel:
            queue = kombu.Queue(f"{self.prefix}{name}", channel=channel, durable=True)
            return queue.queue_declare(passive=True).message_count

    def taken(self, name):
        """All messages that are there, gone from the broker."""
        messages = []
        with self.channel() as channel:
            queue = kombu.Queue(f"{self.prefix}{name}", channel=channel, durable=True)
            try:
                while message := queue.get(no_ack=True):
                    messages.append(message)
            except channel.connection.channel_errors:  # there never was one
                pass
        return messages

    def delete(self):
        with self.channel() as channel:
            for name in self.names:
                kombu.Queue(name, channel=channel).delete()


class Workers:
    """Processes of `manage.py consume`. What they print is in the log."""

    def __init__(self, log: Path, *names, queues, **options):
        self.log, self.names = log, names
        self.options = {"QUEUE_PREFIX": queues.prefix, **options}
        self.processes = []

    def start(self, number=1):
        command = [sys.executable, "manage.py", "consume", "--skip-checks", *self.names]
        with self.log.open("ab") as log:
            for _ in range(number):
                self.processes.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env=environment(PYTHONUNBUFFERED="1", **self.options),
                        stdout=log,
                        stderr=log,
                    )
                )

    def signal(self, number, index=0):
        self.processes[index].send_signal(number)

    def kill(self, index=0):
        process = self.processes.pop(index)
        process.kill()
        process.wait()

    def stop(self):
        """As a supervisor does: each ends by itself. Their exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        codes = [process.wait(STUCK) for process in self.processes]
        self.processes.clear()
        return codes

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
