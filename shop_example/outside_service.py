"""What is outside of the shop, each a program of its own that answers JSON with JSON and keeps in its memory
what it knows.

It does what it is asked as often as it is asked, and nothing but an Idempotency-Key tells it a retry: that is
given the first one's answer, and 422 where it asks for something else.

With --faults it also takes POST /faults {"reference", "times", "seconds"}: so many of the next requests with
this reference are done, and answered so much later; without "seconds", not answered.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HOST = "127.0.0.1"
Answer = tuple[int, dict[str, Any]]


class Service(ABC):
    """Its knowledge, and what was answered under which key."""

    name: str
    description: str
    port: int

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answers: dict[str, tuple[object, Answer]] = {}
        self.asked: Counter[str] = Counter()
        """How many requests there were, by the reference."""
        self.faults: defaultdict[str, list[float | None]] | None = None
        """Seconds by which the next answers are late, or None where they are lost, by the reference. None: it
        obeys nobody who asks for that."""

    @abstractmethod
    def do(self, path: str, asked: dict[str, Any]) -> Answer:
        """What a POST asks. Raises TypeError for what it does not take."""

    @abstractmethod
    def tell(self, path: str, asked: dict[str, str]) -> Answer:
        """What a GET asks."""

    def post(self, path: str, asked: dict[str, Any], key: str | None) -> Answer | None:
        """Once under a key. None: the answer is lost."""
        with self.lock:
            if path == "/faults" and self.faults is not None:
                self.faults[asked["reference"]] += [asked.get("seconds")] * asked["times"]
                return 200, {}
            answer = self._once(path, asked, key)
            reference = asked.get("reference", "")
            self.asked[reference] += 1
            faults = self.faults[reference] if self.faults is not None else []
            seconds = faults.pop(0) if faults else 0.0
        if seconds is None:
            return None
        time.sleep(seconds)
        return answer

    def _once(self, path: str, asked: dict[str, Any], key: str | None) -> Answer:
        if key in self.answers:
            before, answer = self.answers[key]
            return answer if before == (path, asked) else (422, {"detail": "Another request's key."})
        answer = self.do(path, asked)
        if key is not None:
            self.answers[key] = (path, asked), answer
        return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes, of which the second would wait for the first's acknowledgement.
    disable_nagle_algorithm = True
    service: Service

    def log_message(self, *args: object) -> None:
        """It has nothing to say."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        with self.service.lock:
            answer = self.service.tell(asked.path, dict(parse_qsl(asked.query)))
        self.answer(*answer)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            answer = self.service.post(self.path, json.loads(body), self.headers.get("Idempotency-Key"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            answer = 400, {"detail": f"This cannot be understood: {error}"}
        if answer is None:
            self.close_connection = True
            return
        self.answer(*answer)

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(service: Service) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {service.name}", description=service.description)
    parser.add_argument(
        "port", nargs="?", type=int, default=service.port, help="0: any (default: %(default)s)"
    )
    parser.add_argument("--faults", action="store_true", help="let anybody have answers lost")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    Handler.service, service.faults = service, defaultdict(list) if options.faults else None
    server = ThreadingHTTPServer((HOST, options.port), Handler)
    server.daemon_threads = True
    if options.until_eof:
        threading.Thread(target=end_with_standard_input, daemon=True).start()
    print(f"http://{HOST}:{server.server_address[1]}", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()


def end_with_standard_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)
