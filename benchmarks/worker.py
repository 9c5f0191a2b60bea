"""One part of the benchmark in a process of its own: a process has one driver and one set of settings.

``python -m benchmarks.worker PART ARGUMENTS`` (JSON), with BENCH_* in the environment; prints JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import django


def main(part: str, arguments: str) -> None:
    # By an exception, so that the database goes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    django.setup()
    from benchmarks.database import own_database, versions

    with own_database():
        result = {"versions": versions(), "result": measure(part, json.loads(arguments))}
    print(json.dumps(result))


def measure(part: str, arguments: dict[str, Any]) -> Any:
    from benchmarks import (
        consumers,
        latency,
        locks,
        outbox,
        profiling,
        purge,
        size,
        statuses,
        throughput,
        unique_ids,
    )
    from benchmarks.variants import SETUPS

    if part == "latency":
        return latency.measure(SETUPS[arguments.pop("setup")], **arguments)
    if part == "tokens":
        return latency.measure_tokens(**arguments)
    if part == "statuses":
        return statuses.measure(**arguments)
    if part == "locks":
        return locks.measure(**arguments)
    if part == "outbox":
        return outbox.measure(**arguments)
    if part == "unique-ids":
        return unique_ids.measure(**arguments)
    if part == "consumers":
        return consumers.measure(**arguments)
    if part == "size":
        return size.measure(**arguments)
    if part == "purge":
        return purge.measure(**arguments)
    if part == "throughput":
        return throughput.measure(**arguments)
    return profiling.measure(**arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
