"""What goes wrong between a caller and a server, four times."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from shop_example.demo.client import LONG, Caller
from shop_example.demo.server import DemoFailure, Server, wait_for

# Longer than the caller has patience; then the server is killed, or nobody waits for the answer.
HELD = "30"
IMPATIENT = 0.5
AT_ONCE = 8


def time_out_then_retry(server: Server, caller: Caller) -> None:
    caller.send(timeout=IMPATIENT, fault=f"answer-late={HELD}")
    caller.send_until_answered()
    # On a busy machine the first request may only now be done; it must be, before it is counted.
    wait_for(server.marker.exists, "the first request to be done", LONG)


def eight_at_once(server: Server, caller: Caller) -> None:
    start = threading.Barrier(AT_ONCE)

    def send() -> None:
        start.wait()
        caller.send_until_answered()

    # Daemons, so that an interrupted demo does not wait for them.
    callers = [threading.Thread(target=send, daemon=True) for _ in range(AT_ONCE)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    if len(caller.answers) != AT_ONCE:
        raise DemoFailure(f"{len(caller.answers)} of {AT_ONCE} requests were answered.")


def kill_before_commit(server: Server, caller: Caller) -> None:
    kill_at(server, caller, f"work-slowly={HELD}")


def kill_after_commit(server: Server, caller: Caller) -> None:
    kill_at(server, caller, f"answer-late={HELD}")


def kill_at(server: Server, caller: Caller, fault: str) -> None:
    """Kill the server where the fault holds the request, start it again, and retry."""
    first = threading.Thread(target=caller.send, kwargs={"fault": fault}, daemon=True)
    first.start()
    wait_for(lambda: server.marker.exists() or not first.is_alive(), "the fault", LONG)
    if not server.marker.exists():
        raise DemoFailure(f"The request ended before its fault began: {caller.answers}")
    server.kill()
    first.join()
    server.start()
    caller.send_until_answered()


class Play(NamedTuple):
    title: str
    run: Callable[[Server, Caller], None]
    # Whether it must do the work again where nothing guards it; when not, a transaction is enough.
    doubles: bool


PLAYS = (
    Play("timeout, then retry", time_out_then_retry, True),
    Play("eight at once", eight_at_once, True),
    Play("killed before commit", kill_before_commit, False),
    Play("killed after commit", kill_after_commit, True),
)
