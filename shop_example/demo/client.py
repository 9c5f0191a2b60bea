"""A caller as callers should be: each retry of an operation is the same message, its key or token too."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPMessage

from shop_example.demo.server import HOST, DemoFailure

LONG = 30.0
LONGEST_RETRY_AFTER = 5.0
SUCCESSES = {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.SEE_OTHER}
# The problem document's code, and the shop's page for people.
DUPLICATE = (b'"code": "duplicate"', b'<code id="refusal-code">duplicate</code>')


@dataclass(frozen=True)
class Message:
    """A POST."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def is_success(self) -> bool:
        """Something was done, or created; a page then leads on to it."""
        return self.status in SUCCESSES

    @property
    def created(self) -> tuple[str | None, bytes]:
        return self.headers.get("Location"), self.body

    @property
    def is_replay(self) -> bool:
        return self.headers.get("Idempotency-Replayed") == "true"

    @property
    def is_duplicate(self) -> bool:
        """A refusal which says that the operation had its run."""
        return self.status == HTTPStatus.CONFLICT and any(mark in self.body for mark in DUPLICATE)

    @property
    def retry_after(self) -> float | None:
        """Seconds; None when the answer is not one to be asked for again."""
        value = self.headers.get("Retry-After", "")
        return min(float(value), LONGEST_RETRY_AFTER) if value.isdigit() else None


def request(port: int, message: Message, *, method: str = "POST", timeout: float = LONG) -> Answer:
    """Raises OSError or HTTPException when no answer comes."""
    connection = HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request(method, message.path, message.body, message.headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


@dataclass
class Caller:
    """Sends one operation, as often as it takes. May be used by several threads at once."""

    port: int
    message: Message
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    conflicts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, *, timeout: float = LONG, fault: str = "") -> Answer | None:
        """One request. None: no answer came, and whether it was done is not known."""
        headers = self.message.headers | ({"Shop-Fault": fault} if fault else {})
        with self.lock:
            self.sent += 1
        try:
            message = Message(self.message.path, headers, self.message.body)
            answer = request(self.port, message, timeout=timeout)
        except (OSError, HTTPException):
            return None
        with self.lock:
            if answer.retry_after is None:
                self.answers.append(answer)
            else:
                self.conflicts += 1
        return answer

    def send_until_answered(self) -> None:
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            answer = self.send()
            if answer and answer.retry_after is None:
                return
            time.sleep(answer.retry_after or 0 if answer else 0.1)
        raise DemoFailure(f"{self.message.path} gave no final answer for {LONG:.0f} seconds.")

    @property
    def replays(self) -> int:
        return sum(answer.is_replay for answer in self.answers)

    @property
    def duplicates(self) -> int:
        return sum(answer.is_duplicate for answer in self.answers)

    @property
    def all_answered_alike(self) -> bool:
        """Whether every answer says that the same thing was created, or that it had been."""
        created = {answer.created for answer in self.answers if answer.is_success}
        told = all(answer.is_success or answer.is_duplicate for answer in self.answers)
        return told and len(created) <= 1
