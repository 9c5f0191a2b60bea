"""Three ZooKeeper servers of a test's own, each of which it may kill and halt."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.processes.gates import STUCK
from tests.services.base import HOST, resolve

MEMBERS = (1, 2, 3)
# A busy machine must not make them hold another election.
CONFIGURATION = """\
tickTime=500
initLimit=20
syncLimit=10
clientPortAddress={host}
clientPort={port}
dataDir={folder}
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr
"""
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


def free_ports(count):
    with ExitStack() as taken:
        probes = [taken.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


class Ensemble:
    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        ports = free_ports(3 * len(MEMBERS))
        self.ports = dict(zip(MEMBERS, ports, strict=False))
        self.peers = dict(zip(MEMBERS, zip(ports[3:6], ports[6:], strict=True), strict=True))
        self.processes = {}
        for member in MEMBERS:
            self.configure(member)
        self.restore()
        return self

    def __exit__(self, *exc_info):
        for member in MEMBERS:
            self.kill(member)
        self.folder.cleanup()

    @property
    def hosts(self):
        return ",".join(f"{HOST}:{port}" for port in self.ports.values())

    def place(self, member):
        return Path(self.folder.name) / str(member)

    def configure(self, member):
        place = self.place(member)
        place.mkdir()
        (place / "myid").write_text(str(member))
        lines = [CONFIGURATION.format(host=HOST, port=self.ports[member], folder=place)]
        lines += [f"server.{number}={HOST}:{a}:{b}\n" for number, (a, b) in self.peers.items()]
        (place / "zoo.cfg").write_text("".join(lines))

    def start(self, member):
        place = self.place(member)
        command = ["java", "-Xmx96m", "-cp", "/usr/share/java/zookeeper.jar", MAIN, str(place / "zoo.cfg")]
        with (place / "log").open("ab") as log:
            self.processes[member] = subprocess.Popen(
                resolve(command), stdout=log, stderr=log, cwd=place, start_new_session=True
            )

    def restore(self):
        """Start those that are not there, and return when all serve."""
        for member in set(MEMBERS) - set(self.processes):
            self.start(member)
        deadline = time.monotonic() + STUCK
        while None in (modes := self.modes()).values():
            assert time.monotonic() < deadline, f"{modes}: see {self.folder.name}"
            time.sleep(0.05)

    def modes(self):
        """What each member is, "leader" or "follower"; None while it serves nobody."""
        return {member: mode(port) for member, port in self.ports.items()}

    def member(self, wanted):
        return next(member for member, mode in self.modes().items() if mode == wanted)

    def kill(self, member):
        if process := self.processes.pop(member, None):
            process.kill()
            process.wait(STUCK)

    def halt(self, member):
        self.processes[member].send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.processes[member].pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self, member):
        self.processes[member].send_signal(signal.SIGCONT)


def mode(port):
    with suppress(OSError), socket.create_connection((HOST, port), timeout=2) as connection:
        connection.sendall(b"srvr")
        said = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        return next((line[6:] for line in said.splitlines() if line.startswith("Mode: ")), None)
    return None
