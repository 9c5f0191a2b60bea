"""Requests through the whole WSGI handler, without a server or a test client around it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from io import BytesIO
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

from benchmarks.variants import Variant

PRODUCTS = 1000


class Call(NamedTuple):
    key: str
    body: bytes
    token: str = ""


def new_call(token: str = "") -> Call:
    """A fresh key, about 130 bytes of JSON, and perhaps a token."""
    key = str(uuid4())
    order = {"product": random.randint(1, PRODUCTS), "quantity": 1, "reference": key}
    return Call(key, json.dumps({**order, "note": "leave it with the neighbours"}).encode(), token)


def new_calls(count: int, alias: str) -> list[Call]:
    """Each with a token of its own, where an alias is named."""
    if not alias:
        return [new_call() for _ in range(count)]
    # What only benchmarks with tokens need: the other packages' process has none.
    from benchmarks.authentication import holder
    from idempotency.tokens import tokens

    return [new_call(issued.token) for issued in tokens(alias).issue(holder(), count=count)]


class Refused(Exception):
    """A request was not answered with 201."""


class Caller:
    """Calls the application in this process, and remembers which keys it has used on which path."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application
        self.done: dict[str, list[Call]] = {}

    def block(self, variant: Variant, count: int) -> list[float]:
        """Seconds of each of so many requests; every one must have answered 201."""
        if variant.replays:
            calls = random.choices(self.done[variant.path], k=count)
        else:
            calls = self.done[variant.path] = new_calls(count, variant.tokens)
        return [self.call(variant, call) for call in calls]

    def call(self, variant: Variant, call: Call) -> float:
        """From the request's environment to its closed response: what a worker is busy for."""
        environ = environment(variant.path, call)
        if variant.keyed:
            environ["HTTP_IDEMPOTENCY_KEY"] = call.key
        if variant.tokens:
            environ["HTTP_IDEMPOTENCY_TOKEN"] = call.token
        started = perf_counter()
        response = self.application(environ, ignore)
        content = b"".join(response)
        response.close()
        seconds = perf_counter() - started
        if response.status_code != 201:
            raise Refused(f"{variant.path} answers {response.status_code}: {content[:200].decode()}")
        return seconds


def environment(path: str, call: Call) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(call.body)),
        "HTTP_HOST": "127.0.0.1",
        "HTTP_ACCEPT": "application/json",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(call.body),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def ignore(status: str, headers: list[tuple[str, str]]) -> None:
    pass
