"""A caller as callers should be: each retry of an operation brings the operation's key again."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

from shop_example.demo.server import HOST, DemoFailure

LONG = 30.0
LONGEST_RETRY_AFTER = 5.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_replay(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"

    @property
    def retry_after(self) -> float | None:
        """Seconds; None when the answer is not one to be asked for again."""
        value = self.headers.get("retry-after", "")
        return min(float(value), LONGEST_RETRY_AFTER) if value.isdigit() else None


def post(port: int, path: str, payload: dict[str, Any], headers: dict[str, str], timeout: float) -> Answer:
    """Raises OSError or HTTPException when no answer comes."""
    connection = HTTPConnection(HOST, port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json", **headers}
        connection.request("POST", path, json.dumps(payload), headers)
        response = connection.getresponse()
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
    finally:
        connection.close()


def sign_in(port: int, name: str, password: str) -> str:
    answer = post(port, "/api/sign-in/", {"username": name, "password": password}, {}, LONG)
    if answer.status != 200:
        raise DemoFailure(f"{name} could not sign in: {answer.status} {answer.body.decode()}")
    return str(json.loads(answer.body)["token"])


@dataclass
class Caller:
    """Sends one operation, as often as it takes. May be used by several threads at once."""

    port: int
    path: str
    payload: dict[str, Any]
    token: str
    key: str
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    refusals: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, *, timeout: float = LONG, fault: str = "") -> Answer | None:
        """One request. None: no answer came, and whether it was done is not known."""
        headers = {"Authorization": f"Token {self.token}", "Idempotency-Key": self.key}
        if fault:
            headers["Shop-Fault"] = fault
        with self.lock:
            self.sent += 1
        try:
            answer = post(self.port, self.path, self.payload, headers, timeout)
        except (OSError, HTTPException):
            return None
        with self.lock:
            if answer.retry_after is None:
                self.answers.append(answer)
            else:
                self.refusals += 1
        return answer

    def send_until_answered(self) -> None:
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            answer = self.send()
            if answer and answer.retry_after is None:
                return
            time.sleep(answer.retry_after or 0 if answer else 0.1)
        raise DemoFailure(f"{self.path} gave no final answer for {LONG:.0f} seconds.")

    @property
    def replays(self) -> int:
        return sum(answer.is_replay for answer in self.answers)

    @property
    def all_answered_alike(self) -> bool:
        """Whether every answer says the same thing was created."""
        bodies = {answer.body for answer in self.answers}
        return len(bodies) == 1 and all(answer.status == 201 for answer in self.answers)
