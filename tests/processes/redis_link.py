"""One connection through the proxy, with what befalls its commands."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread
from typing import TYPE_CHECKING

from tests.processes.resp import batches

if TYPE_CHECKING:
    from tests.processes.redis_proxy import FaultyRedis


class Fault(StrEnum):
    DROP_REQUEST = "drop-request"
    """Never forwarded. What came before it on its connection is answered, and then that is cut."""
    DROP_REPLY = "drop-reply"
    """Executed, like all that came behind it; their replies are swallowed and the connection is cut."""
    DELAY_REQUEST = "delay-request"
    """Forwarded at `release()`, even if the client has hung up meanwhile."""
    DELAY_REPLY = "delay-reply"
    """Executed; the reply is held back until `release()`, or the client hangs up."""


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
