"""A third server that says how many were inside at once. Who dies has left: their connection closes."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread

from tests.processes.gates import STUCK
from tests.services.base import HOST

PIECE = 64


class Witness:
    """The test's side. Whoever is inside has been noted before going on, and is until it has said that it
    leaves."""

    def __init__(self):
        self.changed = Condition()
        self.inside: dict[socket.socket, str] = {}
        self.visits: list[str] = []
        self.most = 0

    def __enter__(self):
        self.listener = socket.create_server((HOST, 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.ends, self.stop = socket.socketpair()
        self.selector = selectors.DefaultSelector()
        for end in (self.listener, self.ends):
            self.selector.register(end, selectors.EVENT_READ)
        self.thread = Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.stop.close()
        self.thread.join(STUCK)
        for each in list(self.selector.get_map().values()):
            each.fileobj.close()
        self.selector.close()

    def run(self):
        while True:
            ready = [key.fileobj for key, _ in self.selector.select()]
            if self.ends in ready:
                return
            arrived = {one: self.read(one) for one in ready if one is not self.listener}
            # Those who come first: of two at once, neither is to be hidden by the other's leaving.
            for visitor, said in arrived.items():
                if said:
                    self.note_entry(visitor, said.decode())
            for visitor, said in arrived.items():
                if not said:
                    self.note_exit(visitor)
            if self.listener in ready:
                self.selector.register(self.listener.accept()[0], selectors.EVENT_READ)

    def read(self, visitor):
        with suppress(ConnectionError):
            return visitor.recv(PIECE)
        return b""

    def note_entry(self, visitor, who):
        with self.changed:
            self.inside[visitor] = who
            self.visits.append(who)
            self.most = max(self.most, len(self.inside))
            self.changed.notify_all()
        with suppress(ConnectionError):  # killed meanwhile
            visitor.sendall(b".")

    def note_exit(self, visitor):
        with self.changed:
            self.inside.pop(visitor, None)
            self.changed.notify_all()
        self.selector.unregister(visitor)
        visitor.close()

    def wait_until(self, condition):
        """Return when ``condition(visits, inside)`` holds."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.visits, list(self.inside.values())), STUCK), (
                f"visits {self.visits}, inside {self.inside.values()}"
            )


@contextmanager
def witnessed(port: int, who: str) -> Iterator[None]:
    """The holder's side: be inside."""
    with socket.create_connection((HOST, port), timeout=STUCK) as connection:
        connection.sendall(who.encode())
        connection.recv(1)
        yield
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
