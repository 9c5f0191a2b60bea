from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
USER = PASSWORD = "idempotency"

ROOT = os.geteuid() == 0
# A daemon that drops root must be able to write here, which a checkout below /root would not allow.
STATE = Path("/run/idempotency-tests") if ROOT else Path(__file__).parents[2] / "build" / "services"


class Unavailable(Exception):
    """A service cannot be used; the message says why."""


class Service(ABC):
    """
    One server that tests talk to, on loopback.

    `start()` is idempotent: a server that answers is used as it is, whoever started it, and is never stopped.
    """

    name: str
    port: int
    executable: str
    packages: tuple[str, ...]
    driver: tuple[str, str] | None = None
    """The module that tests import, and the way to get it."""
    boot_seconds = 60

    @abstractmethod
    def probe(self) -> str:
        """The version, asked for in the protocol and as the tests' user. Raises Unavailable or OSError."""

    @abstractmethod
    def launch(self) -> None:
        """Start the server in the background; it need not answer yet. Raises Unavailable."""

    def create_account(self) -> None:  # noqa: B027 - most have none
        """Make what `probe` signs in as. Raises Unavailable."""

    @property
    def installed(self) -> bool:
        return find_executable(self.executable) is not None

    @property
    def remedy(self) -> str:
        if self.installed:
            return "as root: make services"
        return f"on Debian, as root: apt-get install {' '.join(self.packages)}; make services"

    def start(self) -> str:
        """Make the service usable by tests, and return its version. Raises Unavailable."""
        patience = 5
        if not self.listens():
            if not self.installed:
                raise Unavailable("it is not installed")
            self.launch()
            patience = self.boot_seconds
        deadline = time.monotonic() + patience
        while True:
            try:
                return self.probe()
            except (Unavailable, OSError) as error:
                failure = error
            if time.monotonic() > deadline:
                raise Unavailable(str(failure))
            # A server that still boots refuses this too, so it is tried again.
            with suppress(Unavailable):
                self.create_account()
            time.sleep(0.3)

    def listens(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=2).close()
        except OSError:
            return False
        return True

    def ask(self, request: bytes, *, length: int = 4096) -> bytes:
        """The first bytes that the server sends back."""
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(length)

    def folder(self, *, owner: str | None = None) -> Path:
        path = STATE / self.name
        path.mkdir(parents=True, exist_ok=True)
        if ROOT and owner:
            shutil.chown(path, owner, owner)
        return path


def find_executable(name: str) -> str | None:
    # A user's PATH often lacks the places where Debian puts servers.
    folders = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def resolve(command: Sequence[str]) -> list[str]:
    name, *arguments = command
    return [find_executable(name) or name, *arguments]


def run(command: Sequence[str], *, seconds: float = 60, env: dict[str, str] | None = None) -> str:
    """
    What a command that ends by itself printed. Raises Unavailable when it fails or takes too long.

    Its output goes to a file: a pipe would be inherited by a daemon that it starts, and never end.
    """
    with tempfile.TemporaryFile("w+") as output:
        try:
            status = subprocess.run(
                resolve(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                env={**os.environ, **(env or {})},
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(str(error)) from error
        output.seek(0)
        printed = output.read().strip()
    if status:
        lines = printed.splitlines() or [f"{command[0]} ended with {status}"]
        raise Unavailable(next((line for line in lines if "error" in line.lower()), lines[-1]))
    return printed


def spawn(command: Sequence[str], *, log: Path) -> None:
    """Start a server that does not put itself in the background."""
    with log.open("ab") as output:
        try:
            subprocess.Popen(
                resolve(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(str(error)) from error


def as_user(name: str, command: Sequence[str]) -> list[str]:
    """The command as root gives it for another user; anyone else can only run it as themselves."""
    return ["runuser", "-u", name, "--", *command] if ROOT else list(command)
