"""The test project under gunicorn: several processes of several threads."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gunicorn

from tests.processes import ROOT, environment
from tests.processes.gates import STUCK
from tests.processes.programs import printed_by
from tests.processes.storm import Answer, ask, send

WORKERS, THREADS = 4, 4


class Server:
    """Its socket is the test's: clients need not wait until it listens, and it can be killed and
    started again on the same port."""

    def __init__(self, log: Path, **options: str):
        self.log = log
        self.options = options
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.socket.getsockname()[1]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()
        self.socket.close()

    def start(self):
        command = [sys.executable, "-m", "gunicorn", "tests.processes.wsgi", "--preload"]
        command += [f"--workers={WORKERS}", f"--threads={THREADS}", "--keep-alive=60", "--log-level=warning"]
        command += [f"--bind=fd://{self.socket.fileno()}", "--graceful-timeout=5"]
        if gunicorn.version_info >= (25, 1):
            command += ["--no-control-socket"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(**self.options),
                pass_fds=[self.socket.fileno()],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_it_serves()

    def _wait_until_it_serves(self):
        """The socket takes connections all along; that nobody would answer them must not look stuck."""
        with socket.create_connection(self.socket.getsockname()) as client:
            client.sendall(b"GET /race/ HTTP/1.0\r\n\r\n")
            deadline = time.monotonic() + STUCK
            while not select.select([client], [], [], 0.05)[0]:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"gunicorn does not serve:\n{self.log.read_text()}")

    def kill(self):
        """Master and workers at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STUCK)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=STUCK)

    def ask(self, path: str, data: dict[str, object], key: str, headers=()) -> http.client.HTTPConnection:
        """Send a request whose answer is not waited for."""
        connection = self.connect()
        ask(connection, path, data, key, headers)
        return connection

    def post(self, path: str, data: dict[str, object], key: str, headers=()) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            return send(connection, path, data, key, headers)
        finally:
            connection.close()

    def storm(self, path: str, **plan) -> list[Answer]:
        """Send from many processes at once; see tests.processes.storm."""
        printed = printed_by("storm", given=json.dumps({"port": self.port, "path": path, **plan}))
        return [Answer(*answer) for answer in json.loads(printed)]
