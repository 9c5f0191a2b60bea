"""
Processes of `manage.py consume` that need not each import Django: forks of one that has.

`python -m tests.processes.consuming SOCKET`, the number of a file, is that one.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from functools import cache

from tests.processes import ROOT, environment
from tests.processes.gates import STUCK
from tests.processes.programs import UNSTABLE


class Origin:
    """The test's side: starts them, and tells how they ended."""

    def __init__(self, variables):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(STUCK)
        command = [sys.executable, "-m", "tests.processes.consuming", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, pass_fds=[theirs.fileno()])
        theirs.close()

        def dismiss():
            self.control.close()
            process.wait()

        atexit.register(dismiss)

    def start(self, arguments, options, log):
        """The process's id. The options are for its environment, the log is an open file."""
        request = json.dumps({"start": arguments, "options": options}).encode()
        socket.send_fds(self.control, [request], [log.fileno()])
        return json.loads(self.control.recv(1 << 16))

    def exit_code(self, pid):
        """When it has ended; as that of a Popen."""
        self.control.send(json.dumps({"wait": pid}).encode())
        try:
            return json.loads(self.control.recv(1 << 16))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self.control.recv(1 << 16)
            raise


def origin():
    return _origin(tuple(sorted((name, value) for name, value in environment().items() if name != UNSTABLE)))


@cache
def _origin(variables):
    return Origin(dict(variables))


def consume(arguments, options, log):
    """As `manage.py consume` does in an environment of these options."""
    failed = 1
    try:
        os.setsid()
        for number in (1, 2):
            os.dup2(log, number)
        os.environ.update(options)
        settings = importlib.reload(importlib.import_module("tests.processes.settings"))
        for name in filter(str.isupper, dir(settings)):
            if name != "DATABASES":
                setattr(django_settings, name, getattr(settings, name))
        if port := os.environ.get("DATABASE_PORT"):
            connections.settings["default"] |= {"HOST": "127.0.0.1", "PORT": port}
        # So that nobody waits for what has failed once or twice.
        handling.LONGEST_PAUSE = float(os.environ.get("LONGEST_PAUSE", "0.2"))
        StoreUnavailable.retry_after = 1
        worker.ASIDE_SECONDS = brokers.CLOSING_SECONDS = 0.2
        call_command("consume", *arguments, skip_checks=True)
        failed = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failed)


def main(control):
    living = set()
    while True:
        request, files, *_ = socket.recv_fds(control, 1 << 16, 1)
        if not request:  # the test process is gone
            for pid in living:
                os.kill(pid, signal.SIGKILL)
            return
        asked = json.loads(request)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
            living.discard(asked["wait"])
        elif (answer := os.fork()) == 0:
            control.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            consume(asked["start"], asked["options"], *files)
        else:
            living.add(answer)
        for file in files:
            os.close(file)
        control.send(json.dumps(answer).encode())


if __name__ == "__main__":
    import django

    django.setup()

    from django.conf import settings as django_settings
    from django.core.management import call_command
    from django.db import connections
    from kombu.transport import pyamqp  # noqa: F401

    from idempotency import brokers
    from idempotency.consumers import handling, worker
    from idempotency.exceptions import StoreUnavailable
    from tests.project import consumers  # noqa: F401

    main(socket.socket(fileno=int(sys.argv[1])))
