"""
Clients in processes of their own, which send the same keys at the same time over kept connections.

`python -m tests.processes.storm < plan`, a JSON object: port, path, keys, processes, repeats; with
"apart" each process has keys of its own, with "tokens" each key has one token. Prints the answers as JSON.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import socket
import sys
from typing import NamedTuple

STUCK = 60
# Of those that a replay repeats, what this view sets.
SAME_HEADERS = ("Content-Type", "Content-Length", "Location", "Vary")


class Answer(NamedTuple):
    key: str
    status: int
    body: str
    headers: dict[str, str]

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"

    @property
    def refused(self) -> bool:
        """Whether it is the problem document `conflict`, as the design has it."""
        return (
            self.status == 409
            and self.headers["content-type"] == "application/problem+json"
            and json.loads(self.body)["code"] == "conflict"
            and int(self.headers["retry-after"]) >= 1
        )

    @property
    def response(self) -> tuple[object, ...]:
        """All that must be the same in the first answer and in every replay."""
        return (self.status, self.body, *(self.headers.get(name.lower()) for name in SAME_HEADERS))


def ask(connection, path, data, key, headers=()) -> None:
    # As bytes it goes in the same packet as the headers; apart, it would wait 40 ms for their receipt.
    body = json.dumps(data).encode()
    sent = {"Content-Type": "application/json", "Idempotency-Key": key, "X-User": "alice", **dict(headers)}
    connection.request("POST", path, body, sent)


def send(connection, path, data, key, headers=()) -> Answer:
    ask(connection, path, data, key, headers)
    if hasattr(socket, "TCP_QUICKACK"):  # or the server holds back the body, again 40 ms
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    response = connection.getresponse()
    text = response.read().decode("latin-1")
    return Answer(key, response.status, text, {name.lower(): value for name, value in response.getheaders()})


def client(number: int) -> list[Answer]:
    connection = http.client.HTTPConnection("127.0.0.1", plan["port"], timeout=STUCK)
    answers = []
    for name in plan["keys"]:
        key = f"{name}-{number}" if plan.get("apart") else name
        barrier.wait(STUCK)
        token = plan.get("tokens", {}).get(name)
        headers = {"Idempotency-Token": token} if token else {}
        for _ in range(plan["repeats"]):
            answers.append(send(connection, plan["path"], {"reference": key}, key, headers))
    connection.close()
    return answers


if __name__ == "__main__":
    plan = json.load(sys.stdin)
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(plan["processes"])
    with fork.Pool(plan["processes"]) as pool:
        # Each is in one client until all are, so each process runs one.
        answers = pool.map(client, range(plan["processes"]), chunksize=1)
    json.dump([answer for each in answers for answer in each], sys.stdout)
