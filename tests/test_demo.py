"""`make demo` is the first thing that a stranger runs: it must end well, and leave nothing behind."""

import os
import subprocess
import sys

import pytest
from django.db import connection

from tests.processes import ROOT


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the demo has an SQLite database of its own")
def test_the_demo_shows_that_everything_guarded_happens_once(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "shop_example.demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert "With it, each of the 40 was done exactly once" in done.stdout
    assert list(tmp_path.iterdir()) == []
