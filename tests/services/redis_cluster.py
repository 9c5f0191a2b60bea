"""Three masters without replicas, which keep nothing: when one is gone, all are made anew."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.services.base import HOST, Service, Unavailable, run
from tests.services.redis import Redis

WHOLE = {"cluster_state": "ok", "cluster_slots_ok": "16384", "cluster_size": "3"}
GRACE = 3
"""Seconds in which a cluster of three live nodes may come to agree before it is taken for broken."""


class Node(Redis):
    boot_seconds = 10

    def __init__(self, port: int):
        self.port = port
        self.name = f"{RedisCluster.name}/{port}"

    def launch(self) -> None:
        folder = self.folder()
        (folder / "nodes.conf").unlink(missing_ok=True)
        keep_nothing = [
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(folder),
            "--logfile",
            f"{folder}/log",
        ]
        place = ["--bind", HOST, "--port", str(self.port), "--cluster-enabled", "yes"]
        run(["redis-server", "--daemonize", "yes", *place, *keep_nothing])

    def state(self) -> dict[str, str]:
        lines = self.ask(b"CLUSTER INFO\r\n").decode(errors="replace").splitlines()
        return {name: value for name, _, value in (line.partition(":") for line in lines)}

    def processes(self) -> list[int]:
        """Ours, known by where they run: whatever else holds the port has another folder."""
        folder = str(self.folder().resolve())
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            # Gone meanwhile, or another user's. A folder that was cleaned away has a mark behind its name.
            with suppress(OSError):
                place = os.readlink(process / "cwd").removesuffix(" (deleted)")
                if place == folder and (process / "comm").read_text() == "redis-server\n":
                    found.append(int(process.name))
        return found

    def kill(self) -> None:
        deadline = time.monotonic() + self.boot_seconds
        while processes := self.processes():
            if time.monotonic() > deadline:
                raise Unavailable(f"node {self.port} cannot be killed")
            for process in processes:
                # Not asked to stop: it may be one that is suspended.
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        if self.listens():
            raise Unavailable(f"port {self.port} is taken by another server")


class RedisCluster(Service):
    name = "redis-cluster"
    port = 7101
    ports = (7101, 7102, 7103)
    executable = Redis.executable
    packages = Redis.packages
    driver = Redis.driver

    @property
    def nodes(self) -> list[Node]:
        return [Node(port) for port in self.ports]

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def probe(self) -> str:
        for node in self.nodes:
            state = node.state()
            for name, value in WHOLE.items():
                if state.get(name) != value:
                    raise Unavailable(f"node {node.port} says {name}:{state.get(name, 'nothing')}")
        return self.nodes[0].probe()

    def listens(self) -> bool:
        """Whether there is nothing to launch: that some nodes listen is not enough."""
        with suppress(Unavailable, OSError):
            return bool(self.probe())
        return False

    def launch(self) -> None:
        with self.one_at_a_time():
            if self.settles(GRACE):
                return
            for node in self.nodes:
                node.kill()
            for node in self.nodes:
                node.start()
            addresses = [f"{HOST}:{port}" for port in self.ports]
            run(["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"])
            # Before the next in line looks, or it would take it for broken.
            self.settles(self.boot_seconds)

    def settles(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                return bool(self.probe())
            except Unavailable:
                time.sleep(0.1)
            except OSError:
                # A node that is gone does not come back by itself.
                return False
        return False

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        with (self.folder() / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
