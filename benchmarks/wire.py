"""Statements and round trips as the database sees them.

Execute wrappers see neither a driver's own BEGIN and COMMIT nor how many statements one message holds,
so the protocol is read on its way through a proxy; SQLite, which has none, traces its statements.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from django.db import connection


class Count:
    statements = 0
    round_trips = 0


@contextmanager
def counted() -> Iterator[Count]:
    """Everything that Django's connection says to its database meanwhile."""
    count = Count()
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        connection.connection.set_trace_callback(lambda _: add_statement(count))
        try:
            yield count
        finally:
            connection.connection.set_trace_callback(None)
        return
    settings, proxy = connection.settings_dict, Proxy(count)
    direct = {name: settings[name] for name in ("HOST", "PORT", "OPTIONS")}
    connection.close()
    settings.update(HOST="127.0.0.1", PORT=str(proxy.port))
    if connection.vendor == "postgresql":
        settings["OPTIONS"] = {**direct["OPTIONS"], "sslmode": "disable", "gssencmode": "disable"}
    try:
        yield count
    finally:
        connection.close()
        settings.update(direct)
        proxy.close()


def add_statement(count: Count) -> None:
    count.statements += 1


class Proxy:
    """One port that forwards to the database and reads along."""

    def __init__(self, count: Count) -> None:
        self.count = count
        # Threads have connections of their own, so what they need of this one is taken now.
        self.is_mysql = connection.vendor == "mysql"
        self.target = (connection.settings_dict["HOST"], int(connection.settings_dict["PORT"]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                start(forward, client, server, self.mysql_commands() if self.is_mysql else None)
                start(forward, server, client, None if self.is_mysql else self.postgresql_results())

    def postgresql_results(self) -> Callable[[bytes], None]:
        """CommandComplete ends a statement, ReadyForQuery a round trip."""

        def read(kind: int) -> None:
            self.count.statements += kind == ord("C")
            self.count.round_trips += kind == ord("Z")

        return Frames(5, lambda head: int.from_bytes(head[1:5], "big") - 4, lambda head: read(head[0])).feed

    def mysql_commands(self) -> Callable[[bytes], None]:
        """Every command starts a sequence of packets at zero, and is one statement."""

        def read(sequence: int) -> None:
            self.count.statements += sequence == 0
            self.count.round_trips += sequence == 0

        return Frames(4, lambda head: int.from_bytes(head[:3], "little"), lambda head: read(head[3])).feed


class Frames:
    """Cuts a stream of bytes into messages, and reports the head of each."""

    def __init__(self, size: int, length: Callable[[bytes], int], report: Callable[[bytes], None]) -> None:
        self.size, self.length, self.report = size, length, report
        self.buffer = b""

    def feed(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= self.size:
            end = self.size + self.length(self.buffer[: self.size])
            if len(self.buffer) < end:
                return
            self.report(self.buffer[: self.size])
            self.buffer = self.buffer[end:]


def start(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def forward(source: socket.socket, target: socket.socket, read: Callable[[bytes], None] | None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if read is not None:
                read(data)
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
