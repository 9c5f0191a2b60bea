"""What the guard costs: ``python -m benchmarks``; ``--help`` lists the rest.

Measures time and prints it; nothing here passes or fails by it. The database ``idempotency_bench`` is
made and dropped, so one benchmark runs at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import large, others, plots, report
from benchmarks.variants import SETUPS, THROUGHPUT_GOAL

Part = Callable[[argparse.Namespace, Sequence[str]], None]
DRIVERS = {"postgresql": ("psycopg2", "psycopg3"), "mariadb": ("mysqlclient",), "sqlite": ("sqlite3",)}
SIZES = [10_000, 100_000, 1_000_000, 10_000_000]


def main() -> int:
    options = arguments()
    if options.quick:
        options.rounds, options.block, options.pairs, options.seconds = 6, 100, 3, 1.0
    drivers = options.driver or DRIVERS[options.database]
    print(f"{report.machine()}. Medians of {options.rounds} rounds of {options.block} requests each.")
    if options.profile:
        for driver in drivers:
            profile(options, driver)
        return 0
    for part in options.only or PARTS:
        PARTS[part](options, drivers)
    if options.others:
        other_packages(options, drivers[0])
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the guard costs.")
    add = parser.add_argument
    add("--database", choices=DRIVERS, default="postgresql")
    add("--driver", action="append", choices=DRIVERS["postgresql"], help="on PostgreSQL; both by default")
    add("--rounds", type=int, default=30, help="rounds of one block per variant")
    add("--block", type=int, default=300, help="requests per block")
    add("--pairs", type=int, default=9, help="rounds of the throughput, bare and guarded")
    add("--seconds", type=float, default=3, help="length of each half of such a round")
    add("--quick", action="store_true", help="a few short rounds, to see that it works")
    add("--only", action="append", choices=PARTS, help="only this part; may be given several times")
    add("--plots", type=Path, default=Path("build/benchmarks"), help="folder for the pictures")
    add("--others", action="store_true", help="also the other packages, installed below build/")
    add("--profile", action="store_true", help="instead: where the time of a guarded request goes")
    return parser.parse_args()


def latency(options: argparse.Namespace, driver: str, setup: str) -> None:
    found = worker(options, driver, "latency", setup=setup, rounds=options.rounds, block=options.block)
    print(f"\n{report.versions(found['versions'])}: {SETUPS[setup].title}")
    print("\n".join(report.latency(found["result"])), flush=True)


def tokens(options: argparse.Namespace, driver: str) -> None:
    found = worker(options, driver, "tokens", rounds=options.rounds)
    print(f"\n{report.versions(found['versions'])}: the token alone")
    print("\n".join(report.tokens(found["result"])), flush=True)


def statuses(options: argparse.Namespace, driver: str) -> None:
    measured = {"rounds": options.rounds, "block": options.block, "seconds": options.seconds / 3}
    found = worker(options, driver, "statuses", **measured)
    print(f"\n{report.versions(found['versions'])}: a change of status, each of a row of its own")
    print("\n".join(report.changes(found["result"]["alone"])))
    print("\nThe same row wanted by 8 processes")
    print("\n".join(report.fight(found["result"]["fight"])), flush=True)


def locks(options: argparse.Namespace, driver: str) -> None:
    found = worker(options, driver, "locks", rounds=options.rounds, block=options.block)
    for medium, rows in found["result"]["alone"].items():
        print(f"\n{report.versions(found['versions'])}: a lock that nobody else wants, on {medium}")
        print("\n".join(report.locks(rows)))
    print("\nFrom the release to whoever waits")
    print("\n".join(report.handovers(found["result"]["handed_over"])), flush=True)


def unique_ids(options: argparse.Namespace, driver: str) -> None:
    ids = 100_000 if options.quick else 1_000_000
    found = worker(options, driver, "unique-ids", ids=ids, rounds=options.rounds)
    print(f"\n{report.versions(found['versions'])}: {ids} ids in Redis")
    print("\n".join(report.memory(found["result"]["memory"])))
    print("\n".join(report.times(found["result"]["time"])), flush=True)


def consumers(options: argparse.Namespace, driver: str) -> None:
    found = worker(options, driver, "consumers", rounds=options.pairs, messages=5 * options.block)
    print(f"\n{report.versions(found['versions'])}: one worker on RabbitMQ")
    print("\n".join(report.rates(found["result"])), flush=True)


def outbox(options: argparse.Namespace, driver: str) -> None:
    messages = 2000 if options.quick else 10_000
    found = worker(options, driver, "outbox", messages=messages, rounds=options.pairs)
    print(f"\n{report.versions(found['versions'])}: {messages} messages that wait, to RabbitMQ")
    print("\n".join(report.outbox(found["result"])), flush=True)


def size(options: argparse.Namespace, driver: str) -> None:
    if options.database == "sqlite":
        return
    sizes = SIZES[:2] if options.quick else SIZES
    found = worker(options, driver, "size", sizes=sizes, rounds=options.rounds, block=options.block // 2)
    result = found["result"]
    print(f"\n{report.versions(found['versions'])}: a small table, and one that grows")
    print("\n".join(large.sizes(result["latency"], 1.1)))
    print(f"\nOf {result['weighed']:,} records")
    print("\n".join(large.weights(result["bytes"])), flush=True)
    draw(options, "size", result)


def purge(options: argparse.Namespace, driver: str) -> None:
    if options.database == "sqlite":
        return
    windows, seconds, drops = (4, options.seconds, 1) if options.quick else (15, 2 * options.seconds, 3)
    expired = 100_000 if options.quick else 1_000_000
    measured = {"expired": expired, "windows": windows, "seconds": seconds, "drops": drops}
    found = worker(options, driver, "purge", **measured)
    print(f"\n{report.versions(found['versions'])}: {expired:,} expired among {2 * expired:,} records")
    print("\n".join(large.purge(found["result"], 1.5)), flush=True)
    if found["result"]["drop"]:
        print(f"\nA period of {expired:,} records, made with plain SQL")
        print("\n".join(large.drops(found["result"]["drop"], 50)), flush=True)
    draw(options, "purge", found["result"])


def draw(options: argparse.Namespace, part: str, result: dict[str, Any]) -> None:
    try:
        paths = plots.write(options.plots, part, options.database, result)
    except ImportError as error:
        print(f"\nNo pictures: {error} (pip install -r requirements.txt)")
    else:
        print(f"\nDrawn: {', '.join(map(str, paths))}", flush=True)


def throughput(options: argparse.Namespace, driver: str) -> None:
    if options.database == "sqlite":
        return
    found = worker(options, driver, "throughput", pairs=options.pairs, seconds=options.seconds)
    print(f"\n{report.versions(found['versions'])}: gunicorn, 4 workers, 8 keep-alive connections")
    print("\n".join(report.throughput(found["result"], THROUGHPUT_GOAL)), flush=True)


def profile(options: argparse.Namespace, driver: str) -> None:
    found = worker(options, driver, "profile", requests=min(options.rounds * options.block, 1500))
    print(f"\n{report.versions(found['versions'])}: where the time goes")
    for cells in found["result"]:
        print("\n" + "\n".join(report.table(cells)), flush=True)


def other_packages(options: argparse.Namespace, driver: str) -> None:
    python, reason = others.install()
    if python is None:
        print(f"\nThe other packages are left out, since they cannot be installed: {reason}")
        return
    for package, number in others.PACKAGES.items():
        measured = {"setup": "other", "rounds": options.rounds, "block": options.block}
        try:
            found = worker(options, driver, "latency", python=python, package=package, **measured)
        except subprocess.CalledProcessError as error:
            print(f"\n{package} {number} is left out: {error}")
            continue
        print(f"\n{package} {number} with {report.versions(found['versions'])}")
        print("\n".join(report.latency(found["result"])), flush=True)


def worker(
    options: argparse.Namespace,
    driver: str,
    part: str,
    *,
    python: str = sys.executable,
    package: str = "",
    **measured: Any,
) -> Any:
    """The result of one part, which a process of its own measures."""
    environment = {"BENCH_DATABASE": options.database, "BENCH_DRIVER": driver, "BENCH_PACKAGE": package}
    command = [python, "-m", "benchmarks.worker", part, json.dumps(measured)]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def latencies(*setups: str) -> Part:
    def measure(options: argparse.Namespace, drivers: Sequence[str]) -> None:
        for setup in setups:
            latency(options, drivers[0], setup)

    return measure


def keys(options: argparse.Namespace, drivers: Sequence[str]) -> None:
    for driver in drivers:
        latency(options, driver, "own")


def all_of_tokens(options: argparse.Namespace, drivers: Sequence[str]) -> None:
    latency(options, drivers[0], "tokens")
    tokens(options, drivers[0])


def on_the_first(measure: Callable[[argparse.Namespace, str], None]) -> Part:
    return lambda options, drivers: measure(options, drivers[0])


PARTS: dict[str, Part] = {
    "keys": keys,
    "tokens": all_of_tokens,
    "leases": latencies("leases"),
    "requests": latencies("flat", "requests"),
    "statuses": on_the_first(statuses),
    "unique-ids": on_the_first(unique_ids),
    "locks": on_the_first(locks),
    "consumers": on_the_first(consumers),
    "outbox": on_the_first(outbox),
    "throughput": on_the_first(throughput),
    "size": on_the_first(size),
    "purge": on_the_first(purge),
}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"A part of the benchmark failed (its own message is above): {error.cmd[2:]}")
