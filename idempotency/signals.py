"""What happened to an operation, for metrics and audit.

Every signal is sent with ``mechanism`` ("record", "token", "status", "unique-id" or "lock"), ``key`` (a
ScopedKey; a token's has the token's digest for its key, a status change's the event id, a lock's its
name) and ``using`` (the guard's database alias, None for Redis and ZooKeeper). ``replayed`` has
``record`` too (of a status the log's entry, or None when it is stale); ``refused`` and ``failed_open``
have ``error``. ``completed`` comes after the commit, or when a lock was released.
``parked`` says that an event came too early, and was kept. ``lock_lost`` that a lock was lost while its
holder was at work; it may be sent from the thread that renews locks.
``recovered`` has ``outcome``, what the completer did about an operation that was abandoned, and ``reason``.
``failed_open`` says that an operation runs unguarded, since its store is away and was set to let pass.

A receiver's error is logged and never reaches the caller. ``claimed`` is sent inside the operation's
transaction, which a receiver's database error would break. None of them shows a payload.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from idempotency.exceptions import StoreUnavailable

if TYPE_CHECKING:
    from idempotency.keys import ScopedKey

claimed = Signal()
replayed = Signal()
refused = Signal()
completed = Signal()
abandoned = Signal()
failed_open = Signal()
parked = Signal()
lock_lost = Signal()
recovered = Signal()

logger = logging.getLogger("idempotency")
EVENTS = {claimed: "claimed", replayed: "replayed", refused: "refused"}
EVENTS |= {completed: "completed", abandoned: "abandoned", failed_open: "failed open", parked: "parked"}
EVENTS |= {lock_lost: "lost", recovered: "recovered"}
LEVELS = {failed_open: logging.WARNING, lock_lost: logging.WARNING}


def announce(
    signal: Signal, key: ScopedKey | None, *, using: str | None, mechanism: str = "record", **extra: Any
) -> None:
    """One log line and one signal."""
    error = extra.get("error")
    # Callers only learn that the store is away; why is for operators.
    cause = error.__cause__ if isinstance(error, StoreUnavailable) else None
    level = logging.WARNING if cause else LEVELS.get(signal, logging.INFO)
    if logger.isEnabledFor(level):
        reason = f" {error.code}" if error else ""
        reason += f" ({type(cause).__name__}: {cause})" if cause else ""
        logger.log(level, "%s %s%s", EVENTS[signal], key or f"({mechanism} unknown)", reason)
    signal.send_robust(sender=None, key=key, using=using, mechanism=mechanism, **extra)
