"""A caller as callers should be: each retry of an operation is the same message, its key or token too."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http import HTTPStatus

import httpx

from idempotency.client import IdempotencyTransport, Retries
from shop_example.demo.server import HOST, DemoFailure

LONG = 30.0
UNTIL_ANSWERED = Retries(attempts=1_000, pause=0.1, longest_pause=0.1, give_up_after=LONG)
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
    headers: httpx.Headers
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
    def is_final(self) -> bool:
        """Whether it is not one to be asked for again."""
        return "Retry-After" not in self.headers


def request(
    port: int,
    message: Message,
    *,
    method: str = "POST",
    timeout: float = LONG,
    transport: httpx.BaseTransport | None = None,
) -> Answer:
    """Sent once, unless the transport sends it again. Raises httpx.TransportError when no answer comes."""
    with httpx.Client(transport=transport or wire(), timeout=timeout) as client:
        url, headers = f"http://{HOST}:{port}{message.path}", message.headers
        response = client.request(method, url, content=message.body, headers=headers)
    return Answer(response.status_code, response.headers, response.content)


def wire() -> httpx.BaseTransport:
    # No certificates to load: it talks to this machine only.
    return httpx.HTTPTransport(verify=False)


@dataclass
class Caller:
    """Sends one operation, as often as it takes. May be used by several threads at once."""

    port: int
    message: Message
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    conflicts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, *, timeout: float = LONG, fault: str = "") -> None:
        """One request. Whether it was done is not known where no answer comes."""
        headers = self.message.headers | ({"Shop-Fault": fault} if fault else {})
        message = Message(self.message.path, headers, self.message.body)
        try:
            request(self.port, message, timeout=timeout, transport=Counted(self))
        except httpx.TransportError:
            return

    def send_until_answered(self) -> None:
        transport = IdempotencyTransport(Counted(self), retries=UNTIL_ANSWERED)
        try:
            is_answered = request(self.port, self.message, transport=transport).is_final
        except httpx.TransportError:
            is_answered = False
        if not is_answered:
            raise DemoFailure(f"{self.message.path} gave no final answer for {LONG:.0f} seconds.")

    def note(self, answer: Answer) -> None:
        with self.lock:
            if answer.is_final:
                self.answers.append(answer)
            else:
                self.conflicts += 1

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


class Counted(httpx.BaseTransport):
    """The wire, on which the caller counts what is sent and what comes back."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.wire = wire()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self.caller.lock:
            self.caller.sent += 1
        response = self.wire.handle_request(request)
        body = b"".join(response.stream)
        response.close()
        self.caller.note(Answer(response.status_code, response.headers, body))
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    def close(self) -> None:
        self.wire.close()
