"""Keep-alive connections that each send the next request when the last one was answered.

A process of its own, ``python -m benchmarks.client PORT CONNECTIONS SECONDS PAIRS PATH PATH``, and no
HTTP library: it shares the machine with the server that it measures. It prints a JSON list of rounds,
``{path: {status: count}}``.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable

from benchmarks.calls import new_call


def request(path: str) -> bytes:
    key, body = new_call()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_response(connection: socket.socket) -> int:
    """The status of a response, read to its end."""
    data = read_until(connection, b"", lambda data: b"\r\n\r\n" in data)
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        read_until(connection, body, lambda body: body.endswith(b"0\r\n\r\n"))
    else:
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        read_until(connection, body, lambda body: len(body) >= length)
    return int(head.split(b" ", 2)[1])


def read_until(connection: socket.socket, data: bytes, ended: Callable[[bytes], bool]) -> bytes:
    while not ended(data):
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("The server closed a keep-alive connection.")
        data += more
    return data


def send_for(connections: list[socket.socket], path: str, seconds: float) -> Counter[int]:
    """Statuses of what was answered within the time."""
    answered: Counter[int] = Counter()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(request(path))
        end, waiting = time.monotonic() + seconds, len(connections)
        while waiting:
            for ready, _ in selector.select():
                status = read_response(ready.fileobj)  # type: ignore[arg-type]
                if time.monotonic() < end:
                    answered[status] += 1
                    ready.fileobj.sendall(request(path))  # type: ignore[union-attr]
                else:
                    waiting -= 1
    return answered


def main(port: str, count: str, seconds: str, pairs: str, *paths: str) -> None:
    rounds = []
    for number in range(int(pairs)):
        # The workers take connections as it comes; both paths of a pair go over the same ones.
        connections = [socket.create_connection(("127.0.0.1", int(port))) for _ in range(int(count))]
        for path in paths:
            send_for(connections, path, 0.3)
        order = paths[::-1] if number % 2 else paths
        rounds.append({path: send_for(connections, path, float(seconds)) for path in order})
        for connection in connections:
            connection.close()
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(*sys.argv[1:])
