"""How many requests a second a real server answers: bare against guarded with fresh keys.

gunicorn with 4 workers of 2 threads each (its threaded workers are those that keep connections alive),
and 8 connections of one client process. Bare and guarded take turns over the same connections.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from statistics import median, quantiles
from typing import Any

from benchmarks.database import settle

WORKERS, CONNECTIONS = 4, 8
BARE, GUARDED = "/bare/", "/guarded/"


def measure(pairs: int, seconds: float) -> dict[str, Any]:
    settle()
    with server() as port:
        arguments = map(str, (port, CONNECTIONS, seconds, pairs, BARE, GUARDED))
        client = [sys.executable, "-m", "benchmarks.client", *arguments]
        rounds = json.loads(subprocess.run(client, check=True, stdout=subprocess.PIPE).stdout)
    rates = {path: [pair[path].get("201", 0) / seconds for pair in rounds] for path in (BARE, GUARDED)}
    ratios = [guarded / bare for guarded, bare in zip(rates[GUARDED], rates[BARE], strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    return {
        "bare": median(rates[BARE]),
        "guarded": median(rates[GUARDED]),
        "ratio": middle,
        "quartiles": (low, high),
        "refused": sum(sum(pair[GUARDED].values()) - pair[GUARDED].get("201", 0) for pair in rounds),
        "failed": sum(sum(pair[BARE].values()) - pair[BARE].get("201", 0) for pair in rounds),
    }


@contextmanager
def server() -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "benchmarks.wsgi:application", "--log-level", "warning"]
    command += ["--bind", f"127.0.0.1:{port}", "--keep-alive", "60", "--worker-class", "gthread"]
    command += ["--workers", str(WORKERS), "--threads", str(CONNECTIONS // WORKERS)]
    process = subprocess.Popen(command)
    try:
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            # The master listens before its workers have loaded Django.
            time.sleep(2)
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit("gunicorn did not start.")
