"""What goes wrong between callers and a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from shop_example.demo.client import LONG, Caller
from shop_example.demo.server import DemoFailure, Server, wait_for

# Longer than the caller has patience; then the server is killed, or nobody waits for the answer.
HELD = "30"
IMPATIENT = 0.5


def side_by_side(*calls: Callable[[], object]) -> None:
    """Begin all at the same time, and return when all have ended. Raises the first one's error."""
    start, errors = threading.Barrier(len(calls)), []

    def run(call: Callable[[], object]) -> None:
        try:
            start.wait()
            call()
        except Exception as error:
            errors.append(error)

    # Daemons, so that an interrupted demo does not wait for them.
    threads = [threading.Thread(target=run, args=[call], daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def time_out_then_retry(server: Server, caller: Caller) -> None:
    caller.send(timeout=IMPATIENT, fault=f"answer-late={HELD}")
    caller.send_until_answered()
    # On a busy machine the first request may only now be done; it must be, before it is counted.
    wait_for(server.marker.exists, "the first request to be done", LONG)


def at_once(server: Server, *callers: Caller, times: int) -> None:
    side_by_side(*[caller.send_until_answered for caller in callers] * times)


def undisturbed(server: Server, caller: Caller) -> None:
    caller.send_until_answered()


def in_turn(
    server: Server, *callers: Caller, trouble: Callable[[Server, Caller], None] = undisturbed, at: int = 0
) -> None:
    """One message after the other, of which the one at this place meets with the trouble."""
    for place, caller in enumerate(callers):
        (trouble if place == at else undisturbed)(server, caller)


def kill_before_commit(server: Server, caller: Caller) -> None:
    kill_at(server, caller, f"work-slowly={HELD}")


def kill_after_commit(server: Server, caller: Caller) -> None:
    kill_at(server, caller, f"answer-late={HELD}")


def kill_at(server: Server, caller: Caller, fault: str) -> None:
    """Kill the server where the fault holds the request, start it again, and retry."""
    kill_midway(server, caller, fault)
    server.start()
    caller.send_until_answered()


def kill_midway(server: Server, caller: Caller, fault: str) -> None:
    first = threading.Thread(target=caller.send, kwargs={"fault": fault}, daemon=True)
    first.start()
    wait_for(lambda: server.marker.exists() or not first.is_alive(), "the fault", LONG)
    if not server.marker.exists():
        raise DemoFailure(f"The request ended before its fault began: {caller.answers}")
    server.kill()
    first.join()


class Play(NamedTuple):
    title: str
    #: Of a server and the callers of a trial.
    run: Callable[..., None]
    #: Whether it must go wrong where nothing guards it; when not, a transaction is enough.
    harms: bool
    #: What the shop without the guard has in its place.
    instead: str = "none"


DOUBLE_CLICK = Play("double click", partial(at_once, times=2), True)
EIGHT_AT_ONCE = Play("eight at once", partial(at_once, times=8), True)
TIMEOUT = Play("timeout, then retry", time_out_then_retry, True)
KILLED_BEFORE_COMMIT = Play("killed before commit", kill_before_commit, False)
KILLED_AFTER_COMMIT = Play("killed after commit", kill_after_commit, True)
