"""Tables for a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

HEADER = ("", "µs", "ratio to (a)", "quartiles", "goal", "statements", "round trips", "to Redis")


def machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{len(os.sched_getaffinity(0))} cores, load {load}"


def versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def latency(rows: list[dict[str, Any]]) -> list[str]:
    lines = table([HEADER, *(latency_cells(row) for row in rows if "failure" not in row)])
    return lines + [f"{row['name']}: {row['failure']}" for row in rows if "failure" in row]


def latency_cells(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["quartiles"]
    return (
        row["name"],
        f"{row['microseconds']:.0f}",
        f"{row['ratio']:.2f}",
        f"{low:.2f} .. {high:.2f}" if row["ratio"] != 1 else "",
        f"<= {row['goal']}" if row["goal"] else "",
        f"{row['statements']:g}",
        f"{row['round_trips']:g}" if row["round_trips"] else "",
        f"{row['redis']:g}" if row["redis"] else "",
    )


def tokens(rows: list[dict[str, Any]]) -> list[str]:
    header = ("", "µs", "round trips to Redis")
    return table(
        [header, *((row["name"], f"{row['microseconds']:.0f}", f"{row['redis']:g}") for row in rows)]
    )


def memory(rows: list[dict[str, Any]]) -> list[str]:
    header = ("", "bytes per id", "before nonces are gone")
    return table([header, *((row["name"], f"{row['bytes']:.1f}", f"{row['at_once']:.1f}") for row in rows)])


def times(rows: list[dict[str, Any]]) -> list[str]:
    return table([("", "µs per id"), *((row["name"], f"{row['microseconds']:.1f}") for row in rows)])


def changes(rows: list[dict[str, Any]]) -> list[str]:
    cells = [("", "µs", "ratio to save()", "quartiles", "statements")]
    for row in rows:
        low, high = row["quartiles"]
        shown = (f"{row['ratio']:.2f}", f"{low:.2f} .. {high:.2f}", f"{row['statements']}")
        cells.append((row["name"], f"{row['microseconds']:.0f}", *shown))
    return table(cells)


def fight(rows: list[dict[str, Any]]) -> list[str]:
    cells = [("", "changes/s", "ratio to by hand, with a log", "quartiles")]
    for row in rows:
        low, high = row["quartiles"]
        cells.append((row["name"], f"{row['rate']:.0f}", f"{row['ratio']:.2f}", f"{low:.2f} .. {high:.2f}"))
    return table(cells)


def locks(rows: list[dict[str, Any]]) -> list[str]:
    cells = [("", "µs", "ratio to the first", "quartiles", "goal")]
    for row in rows:
        low, high = row["quartiles"]
        goal = f"<= {row['goal']}" if row["goal"] else ""
        shown = (f"{row['ratio']:.2f}", f"{low:.2f} .. {high:.2f}", goal)
        cells.append((row["name"], f"{row['microseconds']:.0f}", *shown))
    return table(cells)


def handovers(rows: list[dict[str, Any]]) -> list[str]:
    header = ("", "ms, median", "worst")
    return table(
        [header, *((row["name"], f"{row['milliseconds']:.1f}", f"{row['worst']:.1f}") for row in rows)]
    )


def outbox(rows: list[dict[str, Any]]) -> list[str]:
    cells = [("", "messages/s", "quartiles", "goal")]
    for row in rows:
        low, high = row["quartiles"]
        goal = f">= {row['goal']}" if row["goal"] else ""
        cells.append((row["name"], f"{row['rate']:.0f}", f"{low:.0f} .. {high:.0f}", goal))
    return table(cells)


def throughput(found: dict[str, Any], goal: float) -> list[str]:
    low, high = found["quartiles"]
    cells = [
        ("bare/s", "guarded/s", "guarded : bare", "quartiles", "goal", "refused", "failed"),
        (
            f"{found['bare']:.0f}",
            f"{found['guarded']:.0f}",
            f"{found['ratio']:.2f}",
            f"{low:.2f} .. {high:.2f}",
            f">= {goal}",
            f"{found['refused']}",
            f"{found['failed']}",
        ),
    ]
    return table(cells)


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
