"""A connection between two others that a test may cut."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Lock, Thread

from tests.processes.gates import STUCK
from tests.processes.redis_proxy import bind
from tests.services.base import HOST

PIECE = 1 << 16


class Cable:
    """Listens on `port`, a free one of the loopback, and forwards to a server, whatever they speak."""

    def __init__(self, server_port: int):
        self.server_port = server_port
        self.mutex = Lock()
        self.ends: set[socket.socket] = set()
        self.threads: list[Thread] = []
        self.is_clogged = False
        self.swallowed = 0

    def __enter__(self):
        self.listener = bind(0)
        self.port = self.listener.getsockname()[1]
        self.mend()
        return self

    def __exit__(self, *exc_info):
        self.cut()
        self.listener.close()

    def cut(self):
        """End every connection, and refuse new ones."""
        with suppress(OSError):  # cut already
            self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join(STUCK)
        self.listener.close()
        # Bound, so that nobody else gets the port, but deaf.
        self.listener = bind(self.port)
        with self.mutex:
            for end in self.ends:
                hang_up(end)
        while self.threads:
            self.threads.pop().join(STUCK)

    def clog(self):
        """From now on, nothing that is sent arrives, and nobody is told."""
        self.is_clogged = True

    def mend(self):
        self.is_clogged = False
        self.listener.listen()
        self.accepting = Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:  # cut
                return
            try:
                server = socket.create_connection((HOST, self.server_port))
            except OSError:
                client.close()
                continue
            with self.mutex:
                self.ends |= {client, server}
            self.threads.append(Thread(target=self.join, args=(client, server), daemon=True))
            self.threads[-1].start()

    def join(self, client, server):
        back = Thread(target=self.forward, args=(server, client), daemon=True)
        back.start()
        self.forward(client, server)
        back.join()
        with self.mutex:
            for end in (client, server):
                self.ends.discard(end)
                end.close()

    def forward(self, source, target):
        with suppress(OSError):
            while piece := source.recv(PIECE):
                if self.is_clogged:
                    self.swallowed += len(piece)
                else:
                    target.sendall(piece)
        for end in (source, target):
            hang_up(end)


def hang_up(end):
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
