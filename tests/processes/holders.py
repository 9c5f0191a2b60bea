"""The test's side of processes that hold locks, and that it may halt and kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.processes import ROOT, environment
from tests.processes.gates import STUCK
from tests.services.base import HOST


class Holders:
    """Starts them: forks of one process that has Django set up and is connected to nothing."""

    def __enter__(self):
        self.living = []
        self.listener = socket.create_server((HOST, 0), backlog=64)
        self.listener.settimeout(STUCK)
        self.port = self.listener.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.holder_process", str(self.port)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *exc_info):
        self.dismiss()
        self.process.stdin.close()
        self.process.wait(STUCK)
        self.listener.close()

    def new(self, **configuration):
        print(file=self.process.stdin, flush=True)
        holder = self.accept()
        holder.tell("configure", **configuration)
        return holder

    def fork(self, parent):
        assert parent.tell("fork", port=self.port) is None
        return self.accept()

    def accept(self):
        holder = Holder(self.listener.accept()[0])
        self.living.append(holder)
        return holder

    def dismiss(self):
        """Kill those that are left, halted ones too."""
        while self.living:
            self.living.pop().kill()


class Holder:
    """One process. ``tell("enter", name=…)`` returns what its method of that name does, or the name of
    the exception that it raised."""

    def __init__(self, connection):
        connection.settimeout(2 * STUCK)
        self.connection = connection
        self.lines = connection.makefile("rw", encoding="utf-8")
        self.pid = int(self.lines.readline())
        self.says = ""

    def tell(self, order, **options):
        self.order(order, **options)
        return self.answer()

    def order(self, order, **options):
        """Without waiting for the answer."""
        print(json.dumps([order, options]), file=self.lines, flush=True)

    def answer(self):
        given = json.loads(self.lines.readline())
        self.says = given.get("says", "")
        return given.get("error", given.get("told"))

    def kill(self):
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):
            self.lines.close()
        self.connection.close()

    def halt(self):
        """Return when all of its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + STUCK
        while any(state(task) != "T" for task in Path(f"/proc/{self.pid}/task").iterdir()):
            assert time.monotonic() < deadline, "it goes on"
            time.sleep(0.002)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)


def state(task):
    return (task / "stat").read_text().rpartition(") ")[2][0]
