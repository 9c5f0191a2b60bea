"""Faults on request, for the demo and the tests. Without SHOP_FAULTS=1 nothing here does anything.

A request asks for them in a header, with seconds: ``Shop-Fault: work-slowly=2.5, answer-late=30``.

work-slowly   stop between two writes of the view's transaction
answer-late   hold the answer back when everything is committed

The file named by SHOP_FAULT_MARKER, if set, is made at the moment a fault begins, so that whoever
waits to kill the server knows how far it has come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

HEADER = "Shop-Fault"
NAMES = {"work-slowly", "answer-late"}

_seconds_between_writes: ContextVar[float] = ContextVar("seconds_between_writes", default=0.0)


def work_slowly() -> None:
    """Called by the models between two writes."""
    pause(_seconds_between_writes.get())


def pause(seconds: float) -> None:
    if seconds > 0:
        marker = os.environ.get("SHOP_FAULT_MARKER")
        if marker:
            Path(marker).touch()
        time.sleep(seconds)


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
        token = _seconds_between_writes.set(faults.get("work-slowly", 0.0))
        try:
            response = self.get_response(request)
        finally:
            _seconds_between_writes.reset(token)
        pause(faults.get("answer-late", 0.0))
        return response
