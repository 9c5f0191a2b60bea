"""
Programs of their own, `python -m tests.processes.…`, that need not each import Django.

They are forks of a process that has: there is one per environment and worker of pytest's.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from functools import cache
from tempfile import TemporaryFile

from tests.processes import ROOT, environment

# It is another one in each test, and no program's concern.
UNSTABLE = "PYTEST_CURRENT_TEST"


def printed_by(module: str, *arguments: str, given: str = "", timeout: float = 300, **options: str) -> str:
    """What the program prints that reads what is given. The options are for its environment."""
    variables = {name: value for name, value in environment(**options).items() if name != UNSTABLE}
    read, write = os.pipe()
    with TemporaryFile("w+") as stdin, TemporaryFile("w+") as stdout, os.fdopen(read, "rb", 0) as told:
        stdin.write(given)
        stdin.seek(0)
        request = json.dumps([f"tests.processes.{module}", arguments]).encode()
        files = [stdin.fileno(), stdout.fileno(), 2, write]
        socket.send_fds(warm(frozenset(variables.items())), [request], files)
        os.close(write)
        pid = int.from_bytes(told.read(4))
        if not select.select([told], [], [], timeout)[0]:
            os.killpg(pid, signal.SIGKILL)
            raise TimeoutError(f"{module} takes more than {timeout} s")
        if told.read(1) != b"\0":
            raise RuntimeError(f"{module} failed")
        stdout.seek(0)
        return stdout.read()


def told_to_contenders(*arguments: str) -> list[str]:
    """See tests.processes.contenders."""
    told: list[str] = json.loads(printed_by("contenders", *arguments))
    return told


@cache
def warm(variables: frozenset[tuple[str, str]]) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.processes.warm", str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(variables), pass_fds=[theirs.fileno()])
    theirs.close()

    def dismiss():
        ours.close()
        process.wait()

    atexit.register(dismiss)
    return ours
