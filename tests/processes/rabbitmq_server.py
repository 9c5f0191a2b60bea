"""A RabbitMQ of a test's own, which it may stop and kill: other tests are on the one that all share."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import kombu

from tests.processes.gates import STUCK
from tests.processes.zookeeper_ensemble import free_ports
from tests.services.base import HOST, find_executable

# Debian's own command becomes another user first, who may not write into the folder.
DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONFIGURATION = "listeners.tcp.1 = {host}:{port}\ndisk_free_limit.absolute = 1MB\n"


class RabbitMQServer:
    """What it has confirmed is there again after `kill()` and `start()`."""

    def __init__(self):
        self.port, self.peer_port = free_ports(2)
        self.url = f"amqp://guest:guest@{HOST}:{self.port}//"

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        place = Path(self.folder.name)
        (place / "rabbitmq.conf").write_text(CONFIGURATION.format(host=HOST, port=self.port))
        (place / "plugins").write_text("[].")
        self.environment = {
            **os.environ,
            # The cookie is there.
            "HOME": str(place),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self.peer_port),
            "RABBITMQ_MNESIA_BASE": str(place / "mnesia"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "plugins"),
            "RABBITMQ_PID_FILE": str(place / "pid"),
            # It would keep the processors busy while it waits.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.kill()
        self.folder.cleanup()

    def start(self):
        """And return when it serves."""
        command = str(DEBIAN) if DEBIAN.exists() else find_executable("rabbitmq-server")
        with open(Path(self.folder.name) / "printed", "ab") as log:
            self.process = subprocess.Popen(
                [command], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + STUCK
        while not self.serves():
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.05)

    def serves(self):
        connection = kombu.Connection(self.url)
        try:
            with connection:
                connection.connect()
        except (
            connection.connection_errors + connection.channel_errors + (kombu.exceptions.OperationalError,)
        ):
            return False
        return True

    def stop(self):
        """As its service does."""
        self.end(signal.SIGTERM)

    def kill(self):
        self.end(signal.SIGKILL)

    def end(self, number):
        if self.process.returncode is None:
            os.killpg(self.process.pid, number)
            self.process.wait(STUCK)
