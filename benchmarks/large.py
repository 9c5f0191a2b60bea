"""Tables for a terminal: large tables, and the purge."""

from __future__ import annotations

from typing import Any

from benchmarks.report import table


def sizes(rows: list[dict[str, Any]], goal: float) -> list[str]:
    cells = [("records", "fresh, µs", "ratio to the small", "quartiles", "goal", "replay, µs", "ratio")]
    for row in rows:
        fresh, replay = row["fresh key"], row["replay"]
        low, high = fresh["quartiles"]
        cells.append(
            (
                f"{row['size']:,}",
                f"{fresh['microseconds']:.0f}",
                f"{fresh['ratio']:.2f}",
                f"{low:.2f} .. {high:.2f}",
                f"<= {goal}",
                f"{replay['microseconds']:.0f}",
                f"{replay['ratio']:.2f}",
            )
        )
    return table(cells)


def weights(rows: list[dict[str, Any]]) -> list[str]:
    return table([("", "bytes per record"), *((row["name"], f"{row['bytes']:.1f}") for row in rows)])


def purge(found: dict[str, Any], goal: float) -> list[str]:
    cells = [("8 clients", "p50, ms", "p99, ms", "worst, ms", "writes/s")]
    for name, title in (("without", "without the purge"), ("during", "beside it")):
        row = found[name]
        figures = (f"{row[figure]:.1f}" for figure in ("p50", "p99", "worst"))
        cells.append((title, *figures, f"{row['per_second']:.0f}"))
    low, high = found["quartiles"]
    lines = table(cells)
    lines.append(f"p99, ratio: {found['ratio']:.2f} ({low:.2f} .. {high:.2f}), goal <= {goal}")
    lines.append(f"{len(found['windows'][0])} pairs of windows")
    lines.append(f"failed: {sum(found['failures'].values())} {found['failures'] or ''}".rstrip())
    rate, size = found["rows_per_second"], found["size"]
    lines.append(f"purged: {found['purged']:,}, {rate:.0f} rows/s, {size} rows in the last batch")
    return lines


def drops(milliseconds: list[tuple[float, float]], goal: float) -> list[str]:
    others, whole = (", ".join(f"{one:.0f}" for one in each) for each in zip(*milliseconds, strict=True))
    cells = [("DROP TABLE of a partition", "ms, each time", "goal")]
    cells += [("others wait for the table", others, f"<= {goal}"), ("and its files are gone", whole, "")]
    return table(cells)
