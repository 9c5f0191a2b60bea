"""
A network between a client and Redis that fails on the very command that a test names.

Subscriptions, MONITOR and CLIENT REPLY do not answer each command once: those it cannot follow.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from threading import Condition, Thread

from tests.processes.gates import STUCK

PIECE = 1 << 18
LINES, TEXTS, PAIRS, LISTS = b"+-:_#,(", b"$!=", b"%|", b"*~>"


class Fault(StrEnum):
    DROP_REQUEST = "drop-request"
    """Never forwarded. What came before it on its connection is answered, and then that is cut."""
    DROP_REPLY = "drop-reply"
    """Executed, like all that came behind it; their replies are swallowed and the connection is cut."""
    DELAY_REQUEST = "delay-request"
    """Forwarded at `release()`, even if the client has hung up meanwhile."""
    DELAY_REPLY = "delay-reply"
    """Executed; the reply is held back until `release()`, or the client hangs up."""


class Incomplete(Exception):
    """The rest has not arrived yet."""


def value_end(data: bytes, start: int = 0) -> int:
    """Where the RESP2 or RESP3 value that begins at `start` ends. Raises Incomplete."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        raise Incomplete
    kind, end = data[start : start + 1], line_end + 2
    if kind in LINES:
        return end
    if kind not in TEXTS + PAIRS + LISTS:
        raise ValueError(f"neither RESP2 nor RESP3: {data[start:end]!r}")
    size = int(data[start + 1 : line_end])
    if kind in TEXTS:
        end += size + 2 if size >= 0 else 0
    else:
        # Attributes are not a value, but belong to the one that follows.
        for _ in range(size * (2 if kind in PAIRS else 1) + (kind == b"|")):
            end = value_end(data, end)
    if end > len(data):
        raise Incomplete
    return end


def batches(connection: socket.socket) -> Iterator[list[bytes]]:
    """Whole values, those together that arrived at once. Ends with the connection."""
    buffer, batch = b"", []
    with suppress(OSError):  # reset
        while piece := connection.recv(PIECE):
            buffer += piece
            with suppress(Incomplete):
                while buffer:
                    end = value_end(buffer)
                    batch.append(buffer[:end])
                    buffer = buffer[end:]
                yield batch
                batch = []
    if batch:
        yield batch


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


@dataclass(eq=False)
class Command:
    request: bytes
    link: Link
    fault: Fault | None = None
    answered: bool = False

    @property
    def name(self) -> str:
        # *2, $3, GET, ...
        return self.request.split(b"\r\n", 3)[2].decode().upper()


class Link:
    """A client's connection and its counterpart to the server; a thread reads from each."""

    def __init__(self, proxy: FaultyRedis, client: socket.socket, server: socket.socket):
        self.proxy, self.changed = proxy, proxy.changed
        self.client, self.server = client, server
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unanswered: deque[Command] = deque()
        self.open = True
        self.hung_up = self.asking = self.delivering = self.swallowing = False
        self.thread = Thread(target=self.run, daemon=True)

    def run(self) -> None:
        replies = Thread(target=self.forward_replies, daemon=True)
        replies.start()
        try:
            with suppress(OSError):  # the server is gone
                for batch in batches(self.client):
                    self.forward([Command(request, self) for request in batch])
        finally:
            # The server still executes what it was sent, and then closes its end.
            with self.changed, suppress(OSError):
                self.hung_up = True
                self.changed.notify_all()
                self.server.shutdown(socket.SHUT_WR)
            replies.join()
            self.proxy.forget(self)

    def forward(self, commands: list[Command]) -> None:
        ready: list[Command] = []
        for command in commands:
            if not self.open:
                return
            command.fault = self.proxy.note(command.name)
            if command.fault is Fault.DROP_REQUEST:
                self.send(ready)
                self.cut_when_answered()
                return
            if command.fault is Fault.DELAY_REQUEST:
                self.send(ready)
                ready = []
                self.proxy.hold(command)
            ready.append(command)
        self.send(ready)

    def send(self, commands: list[Command]) -> None:
        with self.changed:
            if not commands or not self.open:
                return
            self.asking = self.asking or not self.unanswered
            self.unanswered.extend(commands)
        self.server.sendall(b"".join(command.request for command in commands))

    def forward_replies(self) -> None:
        try:
            for batch in batches(self.server):
                for reply in batch:
                    self.deliver(reply)
        finally:
            self.cut()

    def deliver(self, reply: bytes) -> None:
        if not reply.startswith(b">"):
            self.take_as_answer()
        if not self.swallowing:
            with suppress(OSError):  # the client is gone
                self.client.sendall(reply)
        elif not self.unanswered:
            self.cut()
        with self.changed:
            self.delivering = False
            self.changed.notify_all()

    def take_as_answer(self) -> None:
        with self.changed:
            command = self.unanswered.popleft()
            command.answered = self.delivering = True
            # Counted before the client can see the reply, and ask for the count.
            self.proxy.turns += self.asking
            self.asking = False
            self.changed.notify_all()
        if command.fault is Fault.DELAY_REPLY:
            self.proxy.hold(command)
        elif command.fault is Fault.DROP_REPLY:
            self.swallowing = True

    def cut_when_answered(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not (self.open and (self.unanswered or self.delivering)))
        self.cut()

    def cut(self) -> None:
        """Ends both threads, which then close what they read from."""
        with self.changed:
            self.open = False
            self.changed.notify_all()
            for end in (self.client, self.server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


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
