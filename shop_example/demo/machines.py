"""Processes as on machines of their own, which share the database and nothing else."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shop_example import faults
from shop_example.demo.server import DemoFailure, wait_for

# Forked off a process that has nothing but Django loaded: no threads, no connections, and it ends with the
# demo. Started one by one, each would take as long as a whole play.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["shop_example.demo.machine_preload"])
LONG = 30.0
PR_SET_PDEATHSIG = 1
# How long an operation works, so that those which begin together meet.
WORK = partial(faults.pause, 0.2)
# Until the lock of a machine that is halted goes to the next.
SHORT_TTL = timedelta(seconds=1)

Fault = Callable[[], None]


def load() -> None:
    """Let that process load Django, beside what the demo does until it needs machines."""
    forkserver.ensure_running()


class Machine:
    """Runs one operation, once, in a process of its own. ``told`` is what it says of it in the end."""

    def __init__(self, database: Path, marker: Path, operation: Callable[[], str]) -> None:
        self.database, self.marker, self.operation = database, marker, operation
        self.process: Any = None
        self.told = ""

    def start(self, fault: Fault = WORK) -> None:
        self.link, theirs = FORKS.Pipe()
        arguments = (theirs, str(self.database), str(self.marker), fault, self.operation)
        # A daemon: the demo that ends takes it along.
        self.process = FORKS.Process(target=run, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def get_ready(self) -> None:
        """Wait until it is."""
        self.hear()

    def go(self) -> None:
        self.link.send("go")

    def end(self) -> None:
        """Wait until it has."""
        self.told = self.hear()
        self.process.join()

    def hear(self) -> str:
        try:
            if self.link.poll(LONG):
                return str(self.link.recv())
        except (EOFError, OSError):
            pass
        raise DemoFailure(f"A machine's process ended without a word, or is at it for {LONG:.0f} seconds.")

    @property
    def has_spoken(self) -> bool:
        return bool(self.link.poll(0))

    def wake(self) -> None:
        """Let it go on that has halted itself."""
        # It stops a moment after it has said so.
        wait_for(self.goes_on, "the halted machine to go on", LONG)

    def goes_on(self) -> bool:
        os.kill(self.process.pid, signal.SIGCONT)
        return bool(self.link.poll(0.1))

    def close(self) -> None:
        if self.process is not None and not self.told:
            # Not asked whether it is alive, which nobody knows when the process is gone that it was forked
            # off; and not SIGTERM, which one that is halted would not see.
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)


def run(link: Connection, database: str, marker: str, fault: Fault, operation: Callable[[], str]) -> None:
    """In the new process."""
    from django.conf import settings
    from django.db import connections

    die_with_the_demo()
    os.environ["SHOP_FAULT_MARKER"] = marker
    connections.settings["default"]["NAME"] = database
    if fault is faults.halt:
        settings.IDEMPOTENCY_LOCKS = {"default": {"TTL": SHORT_TTL}}
    link.send("ready")
    link.recv()
    try:
        with faults.between_writes(fault):
            told = operation()
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    link.send(told)


def die_with_the_demo() -> None:
    # Interrupting it is the demo's own business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The process that this one was forked off ends with the demo, and would not while this is open.
    with suppress(AttributeError, TypeError, OSError):
        os.close(forkserver._forkserver._forkserver_alive_fd)
    # As soon as that one ends. Only Linux has it: elsewhere one that is halted outlives a demo that was
    # killed.
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def at_once(server: object, *machines: Machine, fault: Fault = WORK) -> None:
    for machine in machines:
        machine.start(fault)
    begin(*machines)
    for machine in machines:
        machine.end()


def begin(*machines: Machine) -> None:
    for machine in machines:
        machine.get_ready()
    for machine in machines:
        machine.go()


def all_but_one_at_once(server: object, *machines: Machine) -> None:
    """And the last one when the others have ended."""
    at_once(server, *machines[:-1])
    at_once(server, machines[-1])


def in_turn(server: object, *machines: Machine) -> None:
    for machine in machines:
        at_once(server, machine)


def first_halted(server: object, first: Machine, *others: Machine) -> None:
    """At its work; it goes on when the others have ended."""
    first.start(faults.halt)
    begin(first)
    wait_for(lambda: first.marker.exists() or first.has_spoken, "a machine to be at its work", LONG)
    if not first.marker.exists():
        raise DemoFailure(f"A machine ended before its work began: {first.hear()}")
    at_once(server, *others)
    first.wake()
    first.end()


def first_failing(server: object, first: Machine, *others: Machine) -> None:
    at_once(server, first, fault=be_out_of_order)
    at_once(server, *others)


class OutOfOrder(Exception):
    pass


def be_out_of_order() -> None:
    raise OutOfOrder
