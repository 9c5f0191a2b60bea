"""This process's sessions with ZooKeeper."""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Event
from threading import Lock as Mutex
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from idempotency.clock import now
from idempotency.exceptions import ForkedConnection, StoreUnavailable

try:
    from kazoo.client import KazooClient, KazooState
    from kazoo.exceptions import KazooException, NoNodeError
    from kazoo.handlers.threading import KazooTimeoutError
except ImportError as error:
    raise ImproperlyConfigured(
        "ZooKeeper is used through kazoo: pip install 'django-idempotency-guard[zookeeper]'."
    ) from error

AWAY = (KazooException, KazooTimeoutError)
LONGEST_CONNECTING = 10.0


class Impatient:
    """A client whose requests do not wait longer than a session lasts: kazoo's own wait until the
    connection is back, and no exception then tells of it."""

    REQUESTS = frozenset({"create", "delete", "ensure_path", "exists", "get", "get_children"})

    def __init__(self, client: KazooClient, seconds: float) -> None:
        self._client, self._seconds = client, seconds

    def __getattr__(self, name: str) -> Any:
        if name not in self.REQUESTS:
            return getattr(self._client, name)
        ask = getattr(self._client, f"{name}_async")
        return lambda *args, **kwargs: ask(*args, **kwargs).get(timeout=self._seconds)


class Session:
    """One client, shared by all threads. ``epoch`` changes whenever its connection is in doubt: whatever
    was held before must then be taken for lost, although the server may not know it yet."""

    def __init__(self, hosts: str, timeout: float, options: dict[str, Any]) -> None:
        self.epoch = 0
        self.known_paths: set[str] = set()
        self._timeout = timeout
        self._kazoo = KazooClient(hosts, timeout=timeout, **options)
        self._kazoo.add_listener(self._listen)
        self.client = Impatient(self._kazoo, timeout)
        self._pid = os.getpid()
        self._is_started = False
        self._mutex = Mutex()
        self._back = Event()
        # Nodes of which it is not known whether they are there, by parent and the start of their name.
        self._leftovers: dict[tuple[str, str], None] = {}

    @property
    def is_connected(self) -> bool:
        return bool(self._kazoo.state == KazooState.CONNECTED)

    def refuse_fork(self) -> None:
        if self._pid != os.getpid():
            raise ForkedConnection(
                "This process was forked off one that was connected to ZooKeeper, whose threads it does not "
                "have. Take the first lock after forking rather than when modules are loaded, or call "
                "idempotency.locks.sessions.disconnect() before it."
            )

    def connect(self) -> None:
        """Raises StoreUnavailable. Once it is there, a client reconnects by itself, with a new session
        where the old one is over."""
        self.refuse_fork()
        seconds = min(self._timeout, LONGEST_CONNECTING)
        with self._mutex:
            if not self._is_started:
                try:
                    self._kazoo.start(seconds)
                except AWAY as error:
                    raise StoreUnavailable from error
                self._is_started = True
        if not self.is_connected and not self._is_back(seconds):
            raise StoreUnavailable("ZooKeeper cannot be reached: retry later.")
        if self._leftovers:
            self._sweep()

    def _is_back(self, seconds: float) -> bool:
        give_up_at = now() + seconds
        while not self.is_connected and now() < give_up_at:
            self._back.wait(0.1)
            self._back.clear()
        return self.is_connected

    def close(self) -> None:
        if self._pid == os.getpid() and self._is_started:
            self._kazoo.stop()
            self._kazoo.close()

    def remove(self, parent: str, stem: str) -> None:
        """Delete the node that a request may have made, now or as soon as the server is there: while the
        session lasts it would keep everybody else waiting."""
        # In this order: the listener sees what is there when the connection comes back.
        self._leftovers[parent, stem] = None
        if self.is_connected:
            self._sweep()

    def _sweep(self) -> None:
        for parent, stem in list(self._leftovers):
            try:
                for node in self.client.get_children(parent):
                    if node.startswith(stem):
                        with suppress(NoNodeError):
                            self.client.delete(f"{parent}/{node}")
            except NoNodeError:
                pass
            except AWAY:
                return
            self._leftovers.pop((parent, stem), None)

    def _listen(self, state: str) -> None:
        if state != KazooState.CONNECTED:
            self.epoch += 1
            return
        self._back.set()
        if self._leftovers:
            # Not on the thread that tells of it, which must go on reading.
            self._kazoo.handler.spawn(self._sweep)


_sessions: dict[tuple[str, float, str], Session] = {}
_mutex = Mutex()


def session(hosts: str, timeout: float, options: dict[str, Any]) -> Session:
    """The one of this process, which need not be connected yet."""
    known = (hosts, timeout, repr(sorted(options.items())))
    with _mutex:
        if known not in _sessions:
            _sessions[known] = Session(hosts, timeout, options)
        return _sessions[known]


def disconnect() -> None:
    """Close all sessions, and so release what they hold: before a process forks, or ends a test."""
    with _mutex:
        for one in _sessions.values():
            one.close()
        _sessions.clear()
