"""Faults on request, for the demo and the tests. Without SHOP_FAULTS=1 no request can ask for any.

A request asks for them in a header, with seconds: ``Shop-Fault: work-slowly=2.5, answer-late=30``.

work-slowly   stop between two writes of the view's transaction
answer-late   hold the answer back when everything is committed

The file named by SHOP_FAULT_MARKER, if set, is made at the moment a fault begins, so that whoever
waits to kill the server knows how far it has come.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

HEADER = "Shop-Fault"
NAMES = {"work-slowly", "answer-late"}

_fault: ContextVar[Callable[[], None] | None] = ContextVar("fault_between_writes", default=None)


def work_slowly() -> None:
    """Called by the shop's operations between two writes, or between reading and writing."""
    if fault := _fault.get():
        fault()


@contextmanager
def between_writes(fault: Callable[[], None]) -> Iterator[None]:
    """What is to happen there."""
    token = _fault.set(fault)
    try:
        yield
    finally:
        _fault.reset(token)


def pause(seconds: float) -> None:
    if seconds > 0:
        begin()
        time.sleep(seconds)


def halt() -> None:
    """Stop this whole process, as a virtual machine is that moves, until somebody lets it go on."""
    begin()
    os.kill(os.getpid(), signal.SIGSTOP)


def begin() -> None:
    if marker := os.environ.get("SHOP_FAULT_MARKER"):
        Path(marker).touch()


def parse(header: str) -> dict[str, float]:
    """Seconds by fault. Raises ValueError for what is none."""
    faults = {}
    for part in filter(None, map(str.strip, header.split(","))):
        name, _, seconds = part.partition("=")
        if name not in NAMES:
            raise ValueError(f"There is no fault {name!r}.")
        faults[name] = float(seconds)
    return faults


class FaultMiddleware:
    """The outermost one: what it delays has left every transaction."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            faults = parse(request.headers.get(HEADER, ""))
        except ValueError as error:
            return HttpResponseBadRequest(f"{HEADER}: {error}", content_type="text/plain")
        with between_writes(partial(pause, faults.get("work-slowly", 0.0))):
            response = self.get_response(request)
        pause(faults.get("answer-late", 0.0))
        return response
