"""Something that happens at a given line of the guarded code, counted as it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from redis.connection import AbstractConnection

import idempotency
from tests.processes import changes, consumption, views
from tests.project import consumers, paying

PACKAGE = str(Path(idempotency.__file__).parent) + "/"
# What they guard too: between its writes, and after them.
TRACED = (PACKAGE, views.__file__, changes.__file__, paying.__file__, consumers.__file__)
# What servers are told goes through these, whatever the driver.
SENDING = {
    sends.__code__
    for sends in (
        *(CursorWrapper._execute, CursorWrapper._executemany, AbstractConnection.send_packed_command),
        *(BaseDatabaseWrapper._commit, BaseDatabaseWrapper._rollback, BaseDatabaseWrapper._close),
        *(BaseDatabaseWrapper.set_autocommit, httpx.HTTPTransport.handle_request),
        *(consumption.Message.ack, consumption.DeadLetters.put_aside),
    )
}


class Moment(NamedTuple):
    """Before a line is executed."""

    place: str
    sent: int
    """How much had been sent to servers by then."""


def before_each_line(act: Callable[[int, Moment], object]) -> None:
    """From now on, call ``act`` with the line's number in the run and what there is to know of it."""
    number, sent = -1, 0

    def local(frame, event, argument):
        nonlocal number
        if event == "line":
            number += 1
            act(number, Moment(f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}", sent))
        return local

    def called(frame, event, argument):
        nonlocal sent
        sent += frame.f_code in SENDING
        return local if within(frame) else None

    sys.settrace(called)


def within(frame) -> bool:
    return frame.f_code.co_filename.startswith(TRACED)


def executed_lines(run: Callable[[], object]) -> list[Moment]:
    moments = []
    before_each_line(lambda number, moment: moments.append(moment))
    run()
    sys.settrace(None)
    return moments


def run_until(line: int, run: Callable[[], object], act: Callable[[], object]) -> object:
    before_each_line(lambda number, moment: act() if number == line else None)
    result = run()
    sys.settrace(None)
    return result
