"""
A payment provider in a process of its own, which can be told to fail in every way that a network knows.

POST /charges with {"reference", "cents"} moves money; GET /charges?reference= tells what was moved.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections import deque
from enum import StrEnum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Lock
from urllib.parse import parse_qs, urlsplit

from tests.processes import ROOT
from tests.processes.gates import STUCK
from tests.services.base import HOST

RESET = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """What befalls a request."""

    REFUSED = "refused"
    """The connection is closed, and nothing was done."""
    DROPPED = "dropped"
    """It is done, and the connection closed without an answer."""
    RESET = "reset"
    """It is done, and the connection reset."""
    CUT_SHORT = "cut-short"
    """It is done, and half of the answer's body comes."""
    ERROR = "500-after"
    """It is done, and answered by 500."""
    HELD = "held"
    """It is done, and answered when everything is let go."""
    BUSY = "409"
    LATER = "409-retry-after"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503-retry-after"
    TIMED_OUT = "504"
    DECLINED = "402"

    @property
    def status(self) -> int | None:
        """Of an answer that comes instead of being done."""
        number = self.value.partition("-")[0]
        return int(number) if number.isdigit() and self is not Fault.ERROR else None


class Ledger:
    """What the provider knows."""

    def __init__(self) -> None:
        self.lock, self.changed = Lock(), Condition()
        self.is_idempotent = True
        self.charges: list[dict[str, object]] = []
        self.requests: list[dict[str, object]] = []
        self.answers: dict[str, tuple[dict[str, object], dict[str, object]]] = {}
        self.faults: deque[str | None] = deque()
        self.holding = True

    def charge(self, key: str | None, asked: dict[str, object]) -> tuple[int, dict[str, object]]:
        with self.lock:
            if self.is_idempotent and key in self.answers:
                before, answer = self.answers[key]
                return (200, answer) if before == asked else (422, {"code": "fingerprint-mismatch"})
            answer = {"id": len(self.charges) + 1, **asked}
            self.charges.append(answer)
            if key is not None:
                self.answers[key] = asked, answer
            return 201, answer

    def hold(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: not self.holding, STUCK)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ledger: Ledger

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/control":
            self.answer(200, self.control(**asked))
            return
        key = self.headers.get("Idempotency-Key")
        with self.ledger.lock:
            fault = self.ledger.faults.popleft() if self.ledger.faults else None
            self.ledger.requests.append({"key": key, "fault": fault, **asked})
        self.charge(key, asked, Fault(fault) if fault else None)

    def do_GET(self) -> None:
        (reference,) = parse_qs(urlsplit(self.path).query)["reference"]
        with self.ledger.lock:
            fault = self.ledger.faults.popleft() if self.ledger.faults else None
            found = [charge for charge in self.ledger.charges if charge["reference"] == reference]
        if fault:
            self.befall(Fault(fault), 200, {"charges": found})
        else:
            self.answer(200, {"charges": found})

    def charge(self, key: str | None, asked: dict[str, object], fault: Fault | None) -> None:
        if fault is Fault.REFUSED or (fault and fault.status):
            self.befall(fault, 0, {})
            return
        status, answer = self.ledger.charge(key, asked)
        if fault:
            self.befall(fault, status, answer)
        else:
            self.answer(status, answer)

    def befall(self, fault: Fault, status: int, answer: dict[str, object]) -> None:
        if fault.status:
            self.answer(fault.status, {}, retry_after=fault.value.endswith("retry-after"))
        elif fault is Fault.ERROR:
            self.answer(500, {})
        elif fault is Fault.HELD:
            self.ledger.hold()
            self.answer(status, answer)
        else:
            self.break_off(fault, status, answer)

    def break_off(self, fault: Fault, status: int, answer: dict[str, object]) -> None:
        self.close_connection = True
        if fault is Fault.RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif fault is Fault.CUT_SHORT:
            self.answer(status, answer, cut_short=True)
        self.wfile.flush()

    def answer(
        self, status: int, content: object, *, retry_after: bool = False, cut_short: bool = False
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut_short else body)

    def control(self, do: str, **options: object) -> object:
        ledger = self.ledger
        with ledger.lock:
            if do == "reset":
                ledger.charges, ledger.requests, ledger.answers = [], [], {}
                ledger.faults, ledger.holding = deque(), True
                ledger.is_idempotent = bool(options["is_idempotent"])
            elif do == "befall":
                ledger.faults.extend(options["faults"])  # type: ignore[arg-type]
            elif do == "let-go":
                with ledger.changed:
                    ledger.holding = False
                    ledger.changed.notify_all()
            return {"charges": ledger.charges, "requests": ledger.requests}


class Provider:
    """The test's side of it."""

    def __enter__(self):
        command = [sys.executable, "-m", "tests.processes.provider"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.communicate()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def reset(self, *, is_idempotent: bool = True) -> None:
        self._tell("reset", is_idempotent=is_idempotent)

    def befall(self, *faults: Fault | None) -> None:
        """The next requests, one each; None is none."""
        self._tell("befall", faults=faults)

    def let_go(self) -> None:
        self._tell("let-go")

    @property
    def charges(self) -> list[dict[str, object]]:
        return self._tell("tell")["charges"]

    @property
    def requests(self) -> list[dict[str, object]]:
        return self._tell("tell")["requests"]

    def _tell(self, do, **options):
        connection = HTTPConnection(HOST, self.port, timeout=STUCK)
        try:
            connection.request("POST", "/control", json.dumps({"do": do, **options}))
            return json.load(connection.getresponse())
        finally:
            connection.close()


def main() -> None:
    Handler.ledger = Ledger()
    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
