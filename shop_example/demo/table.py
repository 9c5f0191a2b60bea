"""The demo's result, a line at a time."""

from __future__ import annotations

from collections.abc import Sequence

from shop_example.demo.plays import Play
from shop_example.demo.scenarios import Column, Outcome, Scenario

LABEL = 22
# Each half with the blank before it: what was sent and counted, in the guard's what was told, the verdict.
UNGUARDED, GUARDED = 32, 48


def halves() -> str:
    left, right = " without the guard ", " with the guard "
    return f"{'':{LABEL}}  {left:-^{UNGUARDED - 3}}   {right:-^{GUARDED - 1}}"


def headings(scenario: Scenario) -> str:
    counted = [column.heading for column in scenario.counted]
    told = [column.heading for column in scenario.told]
    left = half(scenario.counted, scenario.sent, counted)
    return line("", left, half(scenario.columns, scenario.sent, counted + told))


def row(scenario: Scenario, play: Play, unguarded: Outcome, guarded: Outcome) -> str:
    left = half(scenario.counted, unguarded.sent, unguarded.counted)
    right = half(scenario.columns, guarded.sent, guarded.counted + guarded.told)
    times = {None: "WRONG", 1: "once"}.get(unguarded.times, f"x {unguarded.times}")
    done = "once" if guarded.is_right else "WRONG"
    return line(f"  {play.title}", f"{left}  {times}", f"{right}  {done}")


def half(columns: Sequence[Column], sent: object, values: Sequence[str]) -> str:
    cells = zip(values, columns, strict=True)
    return f"{sent:>5}" + "".join(f"{value:>{column.width}}" for value, column in cells)


def line(label: str, unguarded: str, guarded: str) -> str:
    return f"{label:{LABEL}} {unguarded:{UNGUARDED}} {guarded}"
