"""Pictures of what was measured, as SVG and PNG: latency against the table's size, and beside a purge.

Each database adds its figures to ``figures.json`` beside the pictures, so that they show all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
COLOURS = {"postgresql": "#336791", "mariadb": "#c0765a", "sqlite": "#7a7a7a"}


def write(folder: Path, part: str, database: str, result: dict[str, Any]) -> list[Path]:
    """The paths of the pictures, which show the part's last result on each database."""
    # Nobody without matplotlib is kept from the tables.
    import matplotlib

    matplotlib.use("Agg")
    # The same figures make the same file.
    matplotlib.rcParams["svg.hashsalt"] = part
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    DRAWN[part](figure, remembered(folder, part, database, result))
    paths = [folder / f"{part}.{suffix}" for suffix in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def remembered(folder: Path, part: str, database: str, result: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "figures.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures.setdefault(part, {})[database] = result
    path.write_text(json.dumps(figures))
    found: dict[str, Any] = figures[part]
    return found


def draw_size(figure: Any, results: dict[str, Any]) -> None:
    axes = figure.subplots()
    for database, result in results.items():
        sizes = [row["size"] for row in result["latency"]]
        for kind, style in (("fresh key", "o-"), ("replay", "s--")):
            # Each size was measured at another time: the ratio to the small table is what compares.
            base = result["latency"][0][kind]["small"]
            times = [row[kind]["ratio"] * base / 1e3 for row in result["latency"]]
            label = f"{NAMES[database]}, {kind}"
            axes.plot(sizes, times, style, color=COLOURS[database], label=label)
    axes.set(xscale="log", xlabel="records in the table", ylabel="median of a request, ms")
    axes.set_ylim(bottom=0)
    axes.set_title("A guarded request against the table's size")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_purge(figure: Any, results: dict[str, Any]) -> None:
    every = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (database, result) in zip(every, results.items(), strict=True):
        without, during = result["windows"]
        numbers = range(1, len(without) + 1)
        axes.plot(numbers, without, "o-", color="#7a7a7a", label="without a purge")
        axes.plot(numbers, during, "s-", color=COLOURS[database], label="beside a purge")
        axes.set(xlabel="pair of windows", ylabel="p99 of 8 writing clients, ms")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{NAMES[database]}: {result['rows_per_second']:,.0f} rows/s purged")
        axes.grid(alpha=0.3)
        axes.legend()


DRAWN: dict[str, Callable[[Any, dict[str, Any]], None]] = {"size": draw_size, "purge": draw_purge}
