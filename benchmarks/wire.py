"""Statements and round trips as the database, and Redis, see them.

Execute wrappers see neither a driver's own BEGIN and COMMIT nor how many statements one message holds,
so the protocol is read on its way through a proxy; SQLite, which has none, traces its statements.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from django.core.cache import caches
from django.db import connection

Reader = Callable[[bytes], None]
REDIS = "tokens"


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
    settings, proxy = connection.settings_dict, database_proxy(count)
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


@contextmanager
def counted_redis() -> Iterator[Count]:
    """The round trips to the Redis that keeps the tokens: a pipeline or a script is one."""
    count, options = Count(), caches.settings[REDIS]
    address = options["LOCATION"]
    parts = urlsplit(address)
    proxy = Proxy((str(parts.hostname), int(parts.port or 6379)), *turns(count))
    options["LOCATION"] = f"redis://127.0.0.1:{proxy.port}{parts.path}"
    with suppress(AttributeError):  # not used yet
        del caches[REDIS]
    try:
        yield count
    finally:
        caches[REDIS].client.get_client().connection_pool.disconnect()
        options["LOCATION"] = address
        del caches[REDIS]
        proxy.close()


def turns(count: Count) -> tuple[Reader, Reader]:
    """Counts how often an answer follows a request, whatever the protocol."""
    asked = False

    def request(data: bytes) -> None:
        nonlocal asked
        asked = True

    def answer(data: bytes) -> None:
        nonlocal asked
        count.round_trips += asked
        asked = False

    return request, answer


def add_statement(count: Count) -> None:
    count.statements += 1


def database_proxy(count: Count) -> Proxy:
    target = (connection.settings_dict["HOST"], int(connection.settings_dict["PORT"]))
    if connection.vendor == "mysql":
        return Proxy(target, mysql_commands(count), None)
    return Proxy(target, None, postgresql_results(count))


def postgresql_results(count: Count) -> Reader:
    """CommandComplete ends a statement, ReadyForQuery a round trip."""

    def read(kind: int) -> None:
        count.statements += kind == ord("C")
        count.round_trips += kind == ord("Z")

    return Frames(5, lambda head: int.from_bytes(head[1:5], "big") - 4, lambda head: read(head[0])).feed


def mysql_commands(count: Count) -> Reader:
    """Every command starts a sequence of packets at zero, and is one statement."""

    def read(sequence: int) -> None:
        count.statements += sequence == 0
        count.round_trips += sequence == 0

    return Frames(4, lambda head: int.from_bytes(head[:3], "little"), lambda head: read(head[3])).feed


class Proxy:
    """One port that forwards to a server, and reads along."""

    def __init__(self, target: tuple[str, int], requests: Reader | None, answers: Reader | None) -> None:
        self.target = target
        self.requests, self.answers = requests, answers
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
                start(forward, client, server, self.requests)
                start(forward, server, client, self.answers)


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


def forward(source: socket.socket, target: socket.socket, read: Reader | None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if read is not None:
                read(data)
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
