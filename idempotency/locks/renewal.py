"""Renewing what is held for longer than its ttl: one thread for each medium, while there is something."""

from __future__ import annotations

import logging
import os
from threading import Condition, Thread
from weakref import ref

from django.db import connections

from idempotency.locks.base import now
from idempotency.locks.held import HeldLock

logger = logging.getLogger("idempotency")
LONGEST_WAIT = 3600.0


class Renewals:
    """The locks of one medium that are renewed, and when each is due."""

    def __init__(self) -> None:
        self._changed = Condition()
        # Whoever has entered the lock keeps it: after an exception out of a signal's handler that may be
        # nobody, and then its time is over soon.
        self._due: dict[ref[HeldLock], float] = {}
        self._thread: Thread | None = None
        self._wakes_at = 0.0

    def add(self, held: HeldLock) -> None:
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

    def remove(self, held: HeldLock) -> None:
        # Without waking the thread, for which that would be all.
        self._due.pop(ref(held), None)

    def _run(self) -> None:
        while self._renew_some():
            connections.close_all()

    def _renew_some(self) -> bool:
        """In a frame of its own, which keeps no lock while the thread waits. False: there is none."""
        due = self._next()
        for held in [held for known in due or () if (held := known())]:
            self._keep(held)
        return due is not None

    def _next(self) -> list[ref[HeldLock]] | None:
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
                # Most locks are released before they are due, and are not worth waking up for.
                self._changed.wait(min(self._wakes_at - present, LONGEST_WAIT))

    def _keep(self, held: HeldLock) -> None:
        try:
            seconds = held.keep()
        except Exception:
            # Nobody is there to see this thread end, and the locks of others.
            logger.exception("cannot be renewed, and is tried again: %s", held.key)
            seconds = held.ttl / 10
        with self._changed:
            if seconds is None or not held.is_open:
                self._due.pop(ref(held), None)
            elif ref(held) in self._due:
                self._due[ref(held)] = now() + seconds


_renewals: dict[str, Renewals] = {}


def renew(held: HeldLock) -> None:
    """Keep it, in the background, until its block is left."""
    _renewals.setdefault(held.store.alias, Renewals()).add(held)


def leave(held: HeldLock) -> None:
    if renewals := _renewals.get(held.store.alias):
        renewals.remove(held)


# Threads do not survive a fork, and what the parent holds is not the child's to renew.
os.register_at_fork(after_in_child=_renewals.clear)
