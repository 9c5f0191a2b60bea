"""What happened to an operation, for metrics and audit.

Every signal is sent with ``key`` (a ScopedKey) and ``using`` (the records' database alias);
``replayed`` has ``record`` too, and ``refused`` ``error``. ``completed`` comes after the commit.
A receiver's error is logged and never reaches the caller. ``claimed`` is sent inside the operation's
transaction, which a receiver's database error would break. None of them shows a payload.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

if TYPE_CHECKING:
    from idempotency.keys import ScopedKey

claimed = Signal()
replayed = Signal()
refused = Signal()
completed = Signal()
abandoned = Signal()

logger = logging.getLogger("idempotency")
EVENTS = {claimed: "claimed", replayed: "replayed", refused: "refused"}
EVENTS |= {completed: "completed", abandoned: "abandoned"}


def announce(signal: Signal, key: ScopedKey | None, *, using: str, **extra: Any) -> None:
    """One log line and one signal."""
    if logger.isEnabledFor(logging.INFO):
        reason = f" {extra['error'].code}" if "error" in extra else ""
        logger.info("%s %s%s", EVENTS[signal], key or "(no key)", reason)
    signal.send_robust(sender=None, key=key, using=using, **extra)
