"""
A network between a client and Redis that fails on the very command that a test names.

Subscriptions, MONITOR and CLIENT REPLY do not answer each command once: those it cannot follow.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Thread

from tests.processes.gates import STUCK
from tests.processes.redis_link import Command, Fault, Link


@dataclass
class Plan:
    """Which commands a fault befalls."""

    fault: Fault
    at: int | None
    times: int
    only: str | None
    seen: int = 0

    def befalls(self, name: str) -> bool:
        if self.only not in (None, name):
            return False
        self.seen += 1
        return self.at is None or self.at <= self.seen < self.at + self.times


class FaultyRedis:
    """
    Listens on `port`, a free one of the loopback, and forwards to a server that speaks in the clear.

    The first reply after a request counts as a round trip. A pipeline is one if its client sends it
    in one piece, as redis-py does below 6000 bytes.
    """

    def __init__(self, host: str, port: int):
        self.server = (host, port)
        self.changed = Condition()
        self.names: list[str] = []
        self.turns = 0
        self.plans: list[Plan] = []
        self.held: list[Command] = []
        self.links: set[Link] = set()

    def __enter__(self):
        self.listener = bind(0)
        self.port = self.listener.getsockname()[1]
        self.back()
        return self

    def __exit__(self, *exc_info):
        self.away()
        self.listener.close()

    def fault(self, kind: str, *, at: int | None = None, times: int = 1, only: str | None = None) -> None:
        """Befall the command that is number `at` from now on, over all connections and of the name
        `only`, and as many as `times` say from there. Without `at` it is every one."""
        with self.changed:
            self.plans.append(Plan(Fault(kind), at, times, only and only.upper()))

    def mend(self) -> None:
        """No more faults. What is held back stays so until released."""
        with self.changed:
            self.plans.clear()

    @property
    def commands(self) -> list[str]:
        """Their names, as clients sent them: with those that were not forwarded."""
        with self.changed:
            return list(self.names)

    @property
    def round_trips(self) -> int:
        with self.changed:
            return self.turns

    def clear(self) -> None:
        """Count and list anew."""
        with self.changed:
            self.names.clear()
            self.turns = 0

    def wait_until_held(self, count: int = 1) -> None:
        """Return when so many requests or replies are held back."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.held) >= count, STUCK), "nothing is held back"

    def release(self) -> None:
        """Let go what is held back, and return when the server has answered it."""
        with self.changed:
            commands, self.held = self.held, []
            self.changed.notify_all()
            for command in commands:
                assert self.changed.wait_for(lambda c=command: c.answered or not c.link.open, STUCK), (
                    "no answer"
                )

    def away(self) -> None:
        """Cut every connection, and refuse new ones."""
        with suppress(OSError):  # away already
            self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(STUCK)
        self.listener.close()
        # Bound, so that nobody else gets the port, but deaf.
        self.listener = bind(self.port)
        for link in list(self.links):
            link.cut()
            link.thread.join(STUCK)

    def back(self) -> None:
        self.listener.listen()
        self.accepting = Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:  # away
                return
            try:
                server = socket.create_connection(self.server)
            except OSError:
                client.close()
                continue
            link = Link(self, client, server)
            with self.changed:
                self.links.add(link)
            link.thread.start()

    def note(self, name: str) -> Fault | None:
        with self.changed:
            self.names.append(name)
            # Each plan counts the command, whichever befalls it.
            faults = [plan.fault for plan in self.plans if plan.befalls(name)]
            return faults[0] if faults else None

    def hold(self, command: Command) -> None:
        link = command.link
        with self.changed:
            self.held.append(command)
            self.changed.notify_all()
            self.changed.wait_for(
                lambda: command not in self.held or not link.open or (command.answered and link.hung_up)
            )
            if command in self.held:
                self.held.remove(command)

    def forget(self, link: Link) -> None:
        with self.changed:
            self.links.discard(link)
            link.client.close()
            link.server.close()


def bind(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener
