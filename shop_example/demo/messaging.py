"""A shop's publisher and the machines that handle its messages, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import kombu
from django.db import connections

from idempotency.models import OutboxMessage
from shop_example import brokers
from shop_example.demo import whole_files  # noqa: F401
from shop_example.demo.server import START_SECONDS, DemoFailure, Server, wait_for

MACHINES = 2
STARTED = "Handling messages"
STOP, STOP_SECONDS = "the machines to end", 30


class Messaging:
    """``consume``: the command of a machine's. In the log machines note what becomes of each message."""

    def __init__(self, server: Server, database: str, *consume: str) -> None:
        self.server, self.database, self.consume = server, database, consume
        self.log = server.folder / "messages.log"
        self.folder = server.database.with_suffix(".messages")
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Unless they are at work already."""
        if not self.processes:
            self.spawn("publish_outbox", "--loop", "--interval", "0.05")
            for _ in range(MACHINES):
                self.spawn(*self.consume)

    def wait_until_started(self) -> None:
        """Each machine: what is published before would go to the first one alone."""
        wait_for(lambda: self.noted(STARTED) == MACHINES, "the machines to start", START_SECONDS)

    def spawn(self, *command: str) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "shop_example.demo.leashed", *command, "--skip-checks"],
                cwd=Path(__file__).resolve().parents[2],
                # In debug mode the package's log is on the terminal.
                env=self.server.environment() | {"SHOP_DEBUG": "1", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Interrupting the demo is the demo's own business.
                start_new_session=True,
            )
        self.processes.append(process)

    def deliver_again(self, event: str) -> None:
        """A message that was published, as a broker does that has heard nothing of it for too long."""
        sent = OutboxMessage.objects.using(self.database).get(event_id=event)
        # This thread's own.
        connections[self.database].close()
        broker = brokers.files(self.folder)
        with kombu.Connection(broker["URL"], transport_options=broker["TRANSPORT_OPTIONS"]) as connection:
            kombu.Producer(connection.channel(), auto_declare=False).publish(
                bytes(sent.body),
                exchange=sent.exchange,
                routing_key=sent.routing_key,
                headers={**json.loads(sent.headers), "event_id": event},
                content_type=sent.content_type,
                content_encoding=sent.content_encoding,
            )

    def noted(self, what: str) -> int:
        """How often the machines have noted that."""
        self.refuse_dead()
        if not self.log.exists():
            return 0
        return sum(line.startswith(what) for line in self.log.read_text(errors="replace").splitlines())

    def refuse_dead(self) -> None:
        if any(process.poll() is not None for process in self.processes):
            raise DemoFailure(f"A process has ended that handles messages.\n{self.last_words()}")

    def stop(self) -> None:
        """As a supervisor does; each ends when the message in hand is done, and none may be left."""
        for process in self.processes:
            process.terminate()
        wait_for(lambda: all(process.poll() is not None for process in self.processes), STOP, STOP_SECONDS)
        codes, left = [process.returncode for process in self.processes], list(self.folder.glob("*.msg"))
        self.close()
        if any(codes) or left:
            raise DemoFailure(f"{len(left)} messages are left, exit codes {codes}.\n{self.last_words()}")

    def close(self) -> None:
        while self.processes:
            process = self.processes.pop()
            process.kill()
            process.communicate()

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
