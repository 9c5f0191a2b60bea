"""``python -m shop_example.provider [port]``: a payment provider, which moves the money of cards.

POST /charges {"reference", "cents"}    the charge; 402 where the card is not good for it
POST /refunds {"charge", "reference"}   all of the charge is given back
GET /charges?reference=…                what was charged and given back under a reference

It does what it is asked as often as it is asked, and nothing but an Idempotency-Key tells it a retry: that is
given the first one's answer, and 422 where it asks for something else. What it knows is in its memory.

With --faults it also takes POST /faults {"reference", "times"}: so many of the next requests with this
reference are done, and not answered.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import uuid
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

HOST, PORT = "127.0.0.1", 8010
MOST_CENTS = 1_000_000
"""For which every card is good."""
Answer = tuple[int, dict[str, Any]]


class Account:
    """What was moved, and what was answered under which key."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.charges: list[dict[str, Any]] = []
        self.refunds: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[object, Answer]] = {}

    def do(self, path: str, asked: dict[str, Any], key: str | None) -> Answer:
        """Once under a key."""
        with self.lock:
            if key in self.answers:
                before, answer = self.answers[key]
                return answer if before == (path, asked) else (422, {"detail": "Another request's key."})
            answer = self.charge(**asked) if path == "/charges" else self.refund(**asked)
            if key is not None:
                self.answers[key] = (path, asked), answer
            return answer

    def charge(self, reference: str, cents: int) -> Answer:
        if cents > MOST_CENTS:
            return 402, {"detail": "The card is declined."}
        self.charges.append({"id": f"charge-{uuid.uuid4()}", "reference": reference, "cents": cents})
        return 201, self.charges[-1]

    def refund(self, charge: str, reference: str) -> Answer:
        cents = next((known["cents"] for known in self.charges if known["id"] == charge), None)
        if cents is None:
            return 404, {"detail": "There is no such charge."}
        self.refunds.append({"id": f"refund-{uuid.uuid4()}", "reference": reference, "cents": cents})
        return 201, self.refunds[-1]

    def moved(self, reference: str) -> dict[str, Any]:
        with self.lock:
            moved = {"charges": self.charges, "refunds": self.refunds}
            return {
                kind: [one for one in all_ if one["reference"] == reference] for kind, all_ in moved.items()
            }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    account: Account
    #: How many answers are to be lost, by the reference; None: it obeys nobody who asks for that.
    losing: Counter[str] | None = None

    def log_message(self, *args: object) -> None:
        """It has nothing to say."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path != "/charges":
            self.answer(404, {})
            return
        (reference,) = parse_qs(asked.query).get("reference", [""])
        self.answer(200, self.account.moved(reference))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            asked = json.loads(body)
            if self.path == "/faults" and self.losing is not None:
                self.losing[asked["reference"]] += asked["times"]
                self.answer(200, {})
            elif self.path in ("/charges", "/refunds"):
                self.move(asked)
            else:
                self.answer(404, {})
        except (ValueError, TypeError, KeyError) as error:
            self.answer(400, {"detail": f"This cannot be understood: {error}"})

    def move(self, asked: dict[str, Any]) -> None:
        answer = self.account.do(self.path, asked, self.headers.get("Idempotency-Key"))
        if self.losing and self.losing[asked["reference"]] > 0:
            self.losing[asked["reference"]] -= 1
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m shop_example.provider", description="Move the money of cards, on this machine."
    )
    parser.add_argument("port", nargs="?", type=int, default=PORT, help="0: any (default: %(default)s)")
    parser.add_argument("--faults", action="store_true", help="let anybody have answers lost")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    Handler.account, Handler.losing = Account(), Counter() if options.faults else None
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


if __name__ == "__main__":
    main()
