from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from contextlib import closing

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.processes.gates import STUCK
from tests.services.base import HOST, resolve

OPTIONS = {"bind": HOST, "save": "", "appendonly": "no", "repl-diskless-load": "disabled"}


class RedisServer:
    """A Redis of the test's own on a free port, which it may kill, halt and reconfigure."""

    def __init__(self):
        with socket.create_server((HOST, 0)) as probe:
            self.port = probe.getsockname()[1]

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()
        self.folder.cleanup()

    def start(self):
        """Empty, and answering."""
        options = {**OPTIONS, "port": str(self.port), "dir": self.folder.name}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen(resolve(["redis-server", *words]), stdout=subprocess.DEVNULL)
        self.ask("PING", retry=Retry(ConstantBackoff(0.02), int(STUCK / 0.02)))

    def kill(self):
        self.process.kill()
        self.process.wait(STUCK)

    def halt(self):
        """It accepts connections, since the kernel does that, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def ask(self, command, **options):
        """What the server answers to a line of words, as redis-cli sends it."""
        with closing(redis.Redis(port=self.port, socket_timeout=STUCK, **options)) as client:
            return client.execute_command(*command.split())
