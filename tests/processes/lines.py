"""Something that happens at a given line of the guarded code, counted as it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import idempotency
from tests.processes import changes, views

PACKAGE = str(Path(idempotency.__file__).parent) + "/"
# What they guard too: between its writes, and after them.
TRACED = (PACKAGE, views.__file__, changes.__file__)


def before_each_line(act: Callable[[int, str], object]) -> None:
    """From now on, call ``act`` with the line's number in the run and its place in the code."""
    number = -1

    def local(frame, event, argument):
        nonlocal number
        if event == "line":
            number += 1
            act(number, f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}")
        return local

    sys.settrace(lambda frame, event, argument: local if within(frame) else None)


def within(frame) -> bool:
    return frame.f_code.co_filename.startswith(TRACED)


def executed_lines(run: Callable[[], object]) -> list[str]:
    lines = []
    before_each_line(lambda number, place: lines.append(place))
    run()
    sys.settrace(None)
    return lines


def run_until(line: int, run: Callable[[], object], act: Callable[[], object]) -> object:
    before_each_line(lambda number, place: act() if number == line else None)
    result = run()
    sys.settrace(None)
    return result
