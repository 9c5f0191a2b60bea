"""
Processes that hold locks, each told what to do over a connection to its test.

`python -m tests.processes.holder_process PORT` forks off one for each line that it reads. See
tests.processes.holders.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from contextlib import ExitStack
from datetime import timedelta

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connections, transaction  # noqa: E402

from idempotency.decorators import idempotent  # noqa: E402
from idempotency.locks import first_wins, lock  # noqa: E402
from tests.processes.gates import STUCK  # noqa: E402
from tests.processes.witness import witnessed  # noqa: E402
from tests.project.models import Guarded, Order  # noqa: E402
from tests.services.base import HOST  # noqa: E402

kept = []


class Holder:
    """Each method is something that it may be told, and returns what it answers."""

    def __init__(self):
        self.block = self.held = self.row = None
        self.visit = ExitStack()

    def configure(self, caches=(), locks=()):
        """More aliases, of which TTL is in seconds."""
        settings.CACHES = {**settings.CACHES, **dict(caches)}
        mediums = dict(settings.IDEMPOTENCY_LOCKS)
        for alias, options in dict(locks).items():
            mediums[alias] = {**mediums.get(alias, {}), **options}
            if "TTL" in options:
                mediums[alias]["TTL"] = timedelta(seconds=options["TTL"])
        settings.IDEMPOTENCY_LOCKS = mediums

    def enter(self, name, witness=None, who="", **options):
        self.block = lock(name, **options)
        self.held = self.block.__enter__()
        if witness:
            self.visit.enter_context(witnessed(witness, who))

    def leave(self):
        self.visit.close()
        self.block.__exit__(None, None, None)

    def race(self, name, witness, who, rounds, **options):
        for _ in range(rounds):
            with lock(name, **options), witnessed(witness, who):
                pass

    def check(self):
        self.held.check()

    def is_lost(self):
        return self.held.lost

    def take_fence(self):
        return self.held.fence

    def read(self, pk):
        self.row = Guarded.objects.get(pk=pk)

    def save(self, value):
        """Together with an order, which is only kept with it."""
        self.row.value = value
        with transaction.atomic():
            Order.objects.create(reference=value)
            self.row.save()

    def delete(self):
        with transaction.atomic():
            Order.objects.create(reference="deleted")
            self.row.delete()

    def work_once(self, key, alias, gate=None):
        """Whether the function was called. At the gate, with what it wrote not committed."""

        @idempotent(guard=first_wins(alias=alias), key="key")
        def work(key):
            Order.objects.create(reference=key)
            if gate:
                with socket.create_connection((HOST, gate), timeout=STUCK) as connection:
                    connection.recv(1)
            return True

        return work(key) is not None

    def disconnect(self):
        from idempotency.locks.sessions import disconnect

        disconnect()

    def reconnect(self):
        """A fork must not use its parent's connection, nor end it."""
        for alias in connections:
            if (connection := connections[alias]).connection is not None:
                kept.append(connection.connection)
                connection.connection = None

    def fork(self, port):
        """Another holder, which has in its hands what this one has."""
        if os.fork() == 0:
            self.visit = ExitStack()
            serve(self, port)


def serve(holder, port):
    """Do as told until the test hangs up."""
    status = 1
    try:
        with socket.create_connection((HOST, port), timeout=STUCK) as connection:
            connection.settimeout(None)
            with connection.makefile("rw", encoding="utf-8") as lines:
                print(os.getpid(), file=lines, flush=True)
                for line in lines:
                    print(json.dumps(answer(holder, *json.loads(line))), file=lines, flush=True)
        status = 0
    finally:
        # Past everything that would end what it shares with its parent.
        os._exit(status)


def answer(holder, order, options):
    try:
        return {"told": getattr(holder, order)(**options)}
    except Exception as error:
        return {"error": type(error).__name__, "says": f"{error}\n{traceback.format_exc()}"}


if __name__ == "__main__":
    # Nobody asks how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        if os.fork() == 0:
            serve(Holder(), int(sys.argv[1]))
