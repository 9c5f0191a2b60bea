"""A primary with one replica and a Sentinel, of a test's own, which it may make forget what it last wrote."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import redis

from tests.processes.cable import Cable
from tests.processes.gates import STUCK
from tests.processes.redis_server import RedisServer
from tests.processes.zookeeper_ensemble import free_ports
from tests.services.base import HOST, resolve

SERVICE = "locks"
CONFIGURATION = """\
port {port}
bind {host}
dir {folder}
sentinel monitor {service} {host} {primary} 1
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 5000
"""


class Replicated:
    """The replica follows by a cable that can be cut: what is written then is lost with the primary."""

    def __enter__(self):
        with ExitStack() as stack:
            self.primary, self.replica = (stack.enter_context(RedisServer()) for _ in range(2))
            self.cable = stack.enter_context(Cable(self.primary.port))
            self.folder = stack.enter_context(tempfile.TemporaryDirectory())
            self.follow()
            (self.port,) = free_ports(1)
            self.start_sentinel()
            stack.callback(self.end_sentinel)
            # Sentinel asks the primary for its replicas when it starts, and then seldom.
            self.wait_for("SENTINEL REPLICAS locks", bool)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info):
        self.stack.close()

    @property
    def cache(self):
        """As it is in CACHES."""
        return {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{SERVICE}/0",
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
                "SENTINELS": [(HOST, self.port)],
                "SOCKET_TIMEOUT": 5,
            },
        }

    def follow(self):
        self.replica.ask("CONFIG SET repl-ping-replica-period 1")
        self.primary.ask("CONFIG SET repl-diskless-sync-delay 0")
        self.replica.ask(f"REPLICAOF {HOST} {self.cable.port}")
        wait_until(lambda: self.replica.ask("INFO replication")["master_link_status"] == "up")

    def start_sentinel(self):
        configuration = Path(self.folder) / "sentinel.conf"
        configuration.write_text(
            CONFIGURATION.format(
                port=self.port, host=HOST, folder=self.folder, service=SERVICE, primary=self.primary.port
            )
        )
        # The same program as redis-sentinel, which Debian has in a package of its own.
        self.process = subprocess.Popen(
            resolve(["redis-server", str(configuration), "--sentinel"]), stdout=subprocess.DEVNULL
        )

    def end_sentinel(self):
        self.process.kill()
        self.process.wait(STUCK)

    def ask(self, command):
        with redis.Redis(port=self.port, socket_timeout=STUCK) as client:
            return client.execute_command(*command.split())

    def wait_for(self, command, condition):
        def answers():
            with suppress(redis.ConnectionError):  # it is not there yet
                return condition(self.ask(command))
            return False

        wait_until(answers)

    def lag_behind(self):
        self.cable.cut()

    def fail_over(self):
        """Return when the replica serves in the primary's place."""
        self.primary.kill()
        # As redis-py sees it: another of Sentinel's answers names the replica earlier.
        self.wait_for(f"SENTINEL MASTER {SERVICE}", self.names_replica)
        wait_until(lambda: self.replica.ask("ROLE")[0] == b"master")

    def names_replica(self, told):
        return (int(told[b"port"]), told[b"flags"]) == (self.replica.port, b"master")


def wait_until(condition):
    deadline = time.monotonic() + STUCK
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
