"""The shop under gunicorn, in a process group of its own that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 60
PAUSE = 0.01


class DemoFailure(Exception):
    """The demo itself went wrong, so it shows nothing either way."""


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailure(f"Waited {seconds:.0f} seconds for {what}.")
        time.sleep(PAUSE)


class Server:
    """Owns the listening socket, so that its port stays the same, and taken, while nobody serves it."""

    def __init__(self, folder: Path, database: Path, **settings: str) -> None:
        """``settings``: further variables of the shop's."""
        folder.mkdir()
        self.settings = settings
        self.folder = folder
        self.database = database
        self.log = folder / "server.log"
        self.marker = folder / "fault-began"
        self.process: subprocess.Popen[bytes] | None = None
        # The play that kills it and starts it again may still be at it when the demo is interrupted.
        self.lock = threading.RLock()
        self.listener = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]

    def close(self) -> None:
        with self.lock:
            self.kill()
            self.listener.close()

    def start(self) -> None:
        with self.lock:
            self.spawn()
        wait_for(self.answers, "the server to answer", START_SECONDS)

    def spawn(self) -> None:
        if self.listener.fileno() < 0:
            raise DemoFailure("The demo is over.")
        ours, theirs = os.pipe()
        self.alive = os.fdopen(ours, "rb")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--config", "python:shop_example.demo.server_settings"],
                cwd=Path(__file__).resolve().parents[2],
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(self.listener.fileno(), theirs),
                start_new_session=True,
            )
        os.close(theirs)

    def environment(self) -> dict[str, str]:
        """Nothing of what may be set for another shop, or another gunicorn."""
        foreign = ("SHOP_", "GUNICORN_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return environment | {
            "DJANGO_SETTINGS_MODULE": "shop_example.settings",
            "SHOP_DATABASE": str(self.database),
            "SHOP_LISTENER": str(self.listener.fileno()),
            "SHOP_FAULTS": "1",
            "SHOP_FAULT_MARKER": str(self.marker),
            **self.settings,
            # Where gunicorn would leave its files.
            "TMPDIR": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
        }

    def answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise DemoFailure("The server did not start.")
        connection = HTTPConnection(HOST, self.port, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL to master and workers at once; returns when every one of them is gone."""
        with self.lock:
            if self.process is not None:
                self.end(self.process)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        # May be the second attempt, when the first was interrupted anywhere.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()
        # Each of them holds the other end of this pipe, which ends with the last of them.
        if not self.alive.closed:
            self.alive.read()
            self.alive.close()
        self.process = None

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-20:])
