"""
A process that has imported what programs of the tests do, and forks one off whenever it is told to.

`python -m tests.processes.warm SOCKET`, the number of a file: see tests.processes.programs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback

import django

django.setup()

PROGRAMS = [f"tests.processes.{name}" for name in ("contenders", "crashes", "deliveries", "fights", "storm")]


def become(module, arguments, files):
    """The program, as `python -m` runs it; who asked is told the process's id, and how it ended."""
    *standard, told = files
    failed = True
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, file in enumerate(standard):
            os.dup2(file, number)
        os.write(told, os.getpid().to_bytes(4))
        # As if it had not been imported yet.
        sys.modules.pop(module, None)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.stdout.flush()
        failed = False
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(told, bytes([failed]))
        os._exit(failed)


def main(control):
    # Nobody asks this process how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for program in PROGRAMS:
        importlib.import_module(program)
    gc.freeze()
    while True:
        request, files, *_ = socket.recv_fds(control, 1 << 16, 4)
        if not request:
            return
        if os.fork() == 0:
            become(*json.loads(request), files)
        for file in files:
            os.close(file)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
