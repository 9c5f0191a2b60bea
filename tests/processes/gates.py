"""A place inside a view, in another process, where the test says how long it takes."""

from __future__ import annotations

import socket

STUCK = 30
"""Seconds after which whoever waits at a gate gives up: only a broken test gets there."""


class Gate:
    """The test's side. What a view writes before it passes is uncommitted until released."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        port = str(self.listener.getsockname()[1])
        self.headers = {"X-Gate": port}
        self.early_headers = {"X-Early-Gate": port}
        self.held = []

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.release()
        self.listener.close()

    def wait_for(self, arrivals=1):
        """Return when so many more views stand at the gate."""
        self.listener.settimeout(STUCK)
        for _ in range(arrivals):
            self.held.append(self.listener.accept()[0])

    @property
    def nobody_else(self):
        """Whether no further view has come to the gate by now."""
        self.listener.settimeout(0)
        try:
            self.held.append(self.listener.accept()[0])
        except BlockingIOError:
            return True
        return False

    def release(self):
        while self.held:
            self.held.pop().close()


def pass_gate(request, header="X-Gate"):
    """The view's side: stand still where the caller named a gate, until it opens or its test is gone."""
    if port := request.headers.get(header):
        with socket.create_connection(("127.0.0.1", int(port)), timeout=STUCK) as connection:
            connection.recv(1)
