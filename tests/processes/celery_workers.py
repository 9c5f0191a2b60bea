"""Celery's workers, each with its pool a group of processes, and the broker that they are on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import kombu
import redis

from tests.processes import ROOT, environment
from tests.processes.gates import STUCK
from tests.project.celery_app import make_app, url

QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat"]


class Broker:
    """Queues, results and keys on RabbitMQ or Redis that no other test has; they are deleted in the end."""

    def __init__(self, name):
        self.name = name
        self.prefix = f"test.{uuid.uuid4().hex[:12]}."
        self.app = make_app(name, self.prefix)
        self.app.loader.import_default_modules()
        self.redis = redis.Redis.from_url(url("redis"))

    def send(self, task, *args, **kwargs):
        return self.app.tasks[task].delay(*args, **kwargs)

    def left(self):
        """How many messages it has, those that are handed out too on Redis."""
        if self.name == "rabbitmq":
            return self._queue(lambda queue: queue.queue_declare(passive=True).message_count)
        waiting = self.redis.llen(f"{self.prefix}{self.prefix}tasks")
        return waiting + self.redis.hlen(f"{self.prefix}unacked")

    def close(self):
        if self.name == "rabbitmq":
            self._queue(lambda queue: queue.delete())
        for key in self.redis.scan_iter(f"{self.prefix}*"):
            self.redis.delete(key)
        self.redis.close()
        self.app.close()

    def _queue(self, action):
        with kombu.Connection(url(self.name)) as connection, connection.channel() as channel:
            try:
                return action(kombu.Queue(f"{self.prefix}tasks", channel=channel))
            except connection.channel_errors:  # nothing was sent
                return 0


class CeleryWorkers:
    """``python -m celery worker``. What they print is in the log."""

    def __init__(self, log: Path, broker, *options, **more):
        self.log, self.broker, self.options, self.more = log, broker, options, more
        self.processes, self.orphaned = [], []

    def start(self, number=1):
        command = [sys.executable, "-m", "celery", "-A", "tests.project.celery_app", "worker", *QUIET]
        place = {"TASK_BROKER": self.broker.name, "QUEUE_PREFIX": self.broker.prefix}
        with self.log.open("ab") as log:
            for _ in range(number):
                self.processes.append(
                    subprocess.Popen(
                        [*command, "--loglevel=INFO", f"--hostname={uuid.uuid4().hex}@test", *self.options],
                        cwd=ROOT,
                        env=environment(CELERY_SKIP_CHECKS="1", **place, **self.more),
                        stdout=log,
                        stderr=log,
                        # So that the pool's processes can be told from others'.
                        start_new_session=True,
                    )
                )

    def children(self, index=0):
        """Those of its pool."""
        pid = self.processes[index].pid
        with suppress(FileNotFoundError):  # it has ended
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def supervise(self):
        """Celery's worker ends when a process of its pool is killed at its start: it is started again."""
        ended = [process for process in self.processes if process.poll() is not None]
        for process in ended:
            self.processes.remove(process)
            self._end_group(process)
        self.start(len(ended))

    def kill(self, index=0):
        """The parent alone: what its children are at is theirs to finish."""
        process = self.processes.pop(index)
        process.kill()
        process.wait()
        self.orphaned.append(process)

    def kill_child(self, chance, index=0):
        if children := self.children(index):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(chance.choice(children), signal.SIGKILL)

    def close(self):
        for process in self.processes + self.orphaned:
            self._end_group(process)
        self.processes.clear()

    def _end_group(self, process):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STUCK)
