"""Management commands in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

from tests.processes import ROOT, environment


@contextmanager
def commands(name):
    """``start(*options, **variables)``: the command; all that were started are killed in the end."""
    started = []

    def start(*options, **variables):
        # The test project has views that no check lets pass.
        command = [sys.executable, "manage.py", name, "--skip-checks", *options]
        env = environment(**variables, PYTHONUNBUFFERED="1")
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()
