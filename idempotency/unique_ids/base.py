from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, Literal, NamedTuple

from idempotency.mediums import BaseMedium

OnFailure = Literal["discard", "keep"]
"""What becomes of an id whose work failed, where the two cannot be committed together.

"discard": it may be handled again, once the work is known to be rolled back; the work runs in one
transaction. "keep": it counts as handled.
"""
OnUnknown = Literal["run", "discard"]
"""What becomes of an id that was claimed, when the claim's deadline is over and nobody has said how it
went: its process died, or could not reach the store any more.

"run": it may be handled again, and effects that were had are had twice. "discard": it counts as handled,
and effects that were not had are never had.
"""
# More of them would be too many lists for Redis: each costs 200 bytes, whatever is in it.
MAX_SLICES = 6


class Answer(Enum):
    WON = "won"
    HANDLED = "handled"
    CLAIMED = "claimed"
    """Somebody is handling it, or died doing so a short time ago."""


class Said(NamedTuple):
    """What a store says of an id, and for how long a claim of somebody else's still runs."""

    answer: Answer
    left: timedelta = timedelta(0)


class BaseUniqueIdStore(BaseMedium):
    """Ids in one medium: each is handled once within WINDOW.

    An id is remembered for at least WINDOW, and at most for WINDOW and one SLICE. While it is being handled
    it is claimed, for at most CLAIM; a crash leaves it so, and ON_UNKNOWN decides when that is over.
    """

    SETTING = "IDEMPOTENCY_UNIQUE_IDS"
    DEFAULTS = {
        "BACKEND": "idempotency.unique_ids.database.DatabaseUniqueIdStore",
        "LOCATION": None,
        "WINDOW": timedelta(days=1),
        "SLICE": None,
        "EXPECTED_IDS": 100_000,
        "CLAIM": timedelta(minutes=5),
        "ON_FAILURE": "discard",
        "ON_UNKNOWN": "run",
        "FAIL_OPEN": False,
    }

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.window = self.duration("WINDOW")
        self.slice = self.window / 4 if options["SLICE"] is None else self.duration("SLICE")
        if not self.window / MAX_SLICES <= self.slice <= self.window:
            raise self.wrong("SLICE", f"between WINDOW / {MAX_SLICES} and WINDOW")
        self.expected_ids = self.count("EXPECTED_IDS")
        self.claim_for = self.duration("CLAIM")
        self.on_failure = self.choice("ON_FAILURE", ("discard", "keep"))
        self.on_unknown = self.choice("ON_UNKNOWN", ("run", "discard"))
        self.fail_open = self.flag("FAIL_OPEN")

    # Each is one atomic step, and may be repeated with the same nonce. Each raises StoreUnavailable,
    # after which it is not known whether it was done.

    def bound(self, using: str | None) -> BaseUniqueIdStore:
        """The same, for work on that database, where ids are kept with the work."""
        return self

    @abstractmethod
    def add(self, digests: Sequence[bytes], nonce: bytes) -> list[Said]:
        """Count different ids as handled, each a step of its own."""

    @abstractmethod
    def contains(self, digest: bytes) -> bool:
        """Whether it counts as handled."""

    @abstractmethod
    def remove(self, digest: bytes, nonce: bytes) -> Said:
        """Forget it. CLAIMED where somebody is handling it: then nothing is done."""

    @abstractmethod
    def claim(self, digest: bytes, nonce: bytes) -> Said:
        """Claim it, committed, until CLAIM is over."""

    @abstractmethod
    def confirm(self, digest: bytes, nonce: bytes) -> bool:
        """Let the claim run anew. False when it is over, and somebody else had the id since."""

    @abstractmethod
    def finish(self, digest: bytes, nonce: bytes) -> None:
        """Count what this nonce has claimed as handled. May be put off while the store is away."""

    @abstractmethod
    def give_up(self, digests: Sequence[bytes], nonce: bytes) -> None:
        """Undo whatever this nonce has added or claimed. May be put off while the store is away."""

    def join(self, digest: bytes) -> Said:
        """Count it as handled when the transaction that is open on ``database`` commits. CLAIMED where
        another transaction is about to, and nobody waits."""
        raise NotImplementedError
