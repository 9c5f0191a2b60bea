"""What a Redis that is away is still to be told: that a token is good again, that an id was handled.

A caller who retries may well be served by another process, so a thread of this one asks until Redis is
back. What is due is lost with the process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from threading import Lock, Thread
from typing import NamedTuple

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured

from idempotency.exceptions import StoreUnavailable
from idempotency.redis import Argument, Script

logger = logging.getLogger("idempotency")


class Due(NamedTuple):
    location: str
    script: Script
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...]


# In the order in which they came to be due.
_dues: dict[Due, None] = {}
MOST_DUES = 100_000
TOGETHER = 1000
PAUSE, LONGEST_PAUSE = 0.25, 1.0
_thread: Thread | None = None
_thread_lock = Lock()


def owe(dues: Sequence[Due], what: str) -> None:
    """Run a script that may as well run twice, for each, now or as soon as Redis is there. ``what`` is for
    the log."""
    _dues.update(dict.fromkeys(dues))
    try:
        _settle_many(dues)
    except StoreUnavailable:
        if len(_dues) > MOST_DUES:
            logger.error("given up, as too much is due already: %s", what)
            for due in dues:
                _dues.pop(due, None)
            return
        logger.warning("put off until Redis is back: %s", what)
        _settle_soon()
    except BaseException:
        # Such as a time limit's, which a signal's handler raises.
        _settle_soon()
        raise


def settle(location: str, key: str | None = None) -> None:
    """Whatever is due there, or only what a key is first of. Raises StoreUnavailable at the first that
    cannot be done.

    What is due stays so until it is done: another thread that asks for the key meanwhile would not be
    told of it.
    """
    for due in list(_dues):
        if due.location == location and key in (None, due.keys[0]):
            _settle_one(due)


def _settle_many(dues: Sequence[Due]) -> None:
    """In one round trip for some hundreds of the same kind; what is not done by then is not due for long."""
    if len(dues) == 1:
        return _settle_one(dues[0])
    for first in range(0, len(dues), TOGETHER):
        some = dues[first : first + TOGETHER]
        some[0].script.run_many(some[0].location, [(due.keys, due.arguments) for due in some])
        for due in some:
            _dues.pop(due, None)


def _settle_one(due: Due) -> None:
    try:
        due.script.run(due.location, due.keys, due.arguments)
    except ImproperlyConfigured:  # the alias is not there any more
        logger.warning("cannot be done any more: what was put off for CACHES[%r]", due.location)
    _dues.pop(due, None)


def _settle_soon() -> None:
    global _thread
    with _thread_lock:
        # After a fork it is there, and not alive.
        if _thread is None or not _thread.is_alive():
            _thread = Thread(target=_settle_until_done, name="idempotency-dues", daemon=True)
            _thread.start()


def _settle_until_done() -> None:
    global _thread
    pause = PAUSE
    while True:
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        for location in {due.location for due in list(_dues)}:
            try:
                settle(location)
            except StoreUnavailable:
                continue
            except Exception:
                # Such as a connection that somebody else closed. Nobody is there to see this thread end.
                logger.exception("tried again: what was put off for CACHES[%r]", location)
        with _thread_lock:
            if not _dues:
                _thread = None
                break
    caches.close_all()
