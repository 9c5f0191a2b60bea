"""Renewing what is held for longer than its time: one thread for each medium, while there is something."""

from __future__ import annotations

import logging
import os
from threading import Condition, Thread
from typing import Protocol
from weakref import ref

from django.db import connections

from idempotency.clock import now

logger = logging.getLogger("idempotency")
LONGEST_WAIT = 3600.0


class Renewable(Protocol):
    """A lock or a lease that somebody holds; compared by identity."""

    ttl: float
    """Seconds for which it is held when nobody renews it."""
    is_open: bool

    @property
    def medium(self) -> str:
        """Where it is held: what is slow or away there keeps nothing else waiting."""
        ...

    @property
    def key(self) -> object:
        """What the log knows it by."""
        ...

    def keep(self) -> float | None:
        """Renew it. Seconds until that is to be done again; None: never."""
        ...


class Renewals:
    """What is renewed of one medium, and when each is due."""

    def __init__(self) -> None:
        self._changed = Condition()
        # Whoever has entered it keeps it: after an exception out of a signal's handler that may be
        # nobody, and then its time is over soon.
        self._due: dict[ref[Renewable], float] = {}
        self._thread: Thread | None = None
        self._wakes_at = 0.0

    def add(self, held: Renewable) -> None:
        due = now() + held.ttl / 3
        with self._changed:
            self._due[ref(held)] = due
            # One may have died, or never begun.
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._run, name="idempotency-renewal", daemon=True)
                self._wakes_at = due
                self._thread.start()
            elif due < self._wakes_at:
                self._wakes_at = due
                self._changed.notify()

    def remove(self, held: Renewable) -> None:
        # Without waking the thread, for which that would be all.
        self._due.pop(ref(held), None)

    def _run(self) -> None:
        while self._renew_some():
            connections.close_all()

    def _renew_some(self) -> bool:
        """In a frame of its own, which keeps nothing alive while the thread waits. False: there is none."""
        due = self._next()
        for held in [held for known in due or () if (held := known())]:
            self._keep(held)
        return due is not None

    def _next(self) -> list[ref[Renewable]] | None:
        """Those that are due, when some are; None when there is nothing to renew."""
        with self._changed:
            while True:
                for gone in [known for known in list(self._due) if known() is None]:
                    self._due.pop(gone, None)
                present, due = now(), dict(self._due)
                if ready := [known for known, at in due.items() if at <= present]:
                    return ready
                if present >= self._wakes_at:
                    if not due:
                        self._thread = None
                        return None
                    self._wakes_at = min(due.values())
                # Most are released before they are due, and are not worth waking up for.
                self._changed.wait(min(self._wakes_at - present, LONGEST_WAIT))

    def _keep(self, held: Renewable) -> None:
        try:
            seconds = held.keep()
        except Exception:
            # Nobody is there to see this thread end, and what others hold.
            logger.exception("cannot be renewed, and is tried again: %s", held.key)
            seconds = held.ttl / 10
        with self._changed:
            if seconds is None or not held.is_open:
                self._due.pop(ref(held), None)
            elif ref(held) in self._due:
                self._due[ref(held)] = now() + seconds


_renewals: dict[str, Renewals] = {}


def renew(held: Renewable) -> None:
    """Keep it, in the background, until it is left, or forgotten by who holds it."""
    _renewals.setdefault(held.medium, Renewals()).add(held)


def no_longer_renew(held: Renewable) -> None:
    if renewals := _renewals.get(held.medium):
        renewals.remove(held)


# Threads do not survive a fork, and what the parent holds is not the child's to renew.
os.register_at_fork(after_in_child=_renewals.clear)
