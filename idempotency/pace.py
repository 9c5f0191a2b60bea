"""How much a job beside live traffic does at a time, and how long it lets others go first."""

from __future__ import annotations

import time
from collections.abc import Callable

SMALLEST, LARGEST, FIRST = 100, 10_000, 1000
TARGET = 0.05
"""Seconds that a batch should take: for so long it may keep somebody waiting."""
SHARE = 0.5
"""Part of the time that is worked; the rest belongs to others."""
LONGEST_REST = 5.0


class Pace:
    """The size of a job's next batch, from how long the last one took, and a rest after each.

    A size is never above ``limit``. One up to 100 stays as it is; larger ones aim at 50 ms a batch,
    between 100 and ``limit``, and change by a factor of two at most. A rest is as long as the work
    since the last one, and 5 seconds at most: one slow statement does not stop the job for minutes.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limit = LARGEST if limit is None else limit
        self.size = min(self.limit, FIRST)
        self.share = share
        self._clock = clock
        self._sleep = sleep
        self._awake_since = clock()

    def adapt(self, rows: int, seconds: float) -> None:
        """Take note of a batch. One that was not full says nothing about larger ones."""
        factor = min(max(TARGET / max(seconds, TARGET / 2), 0.5), 2.0)
        if factor > 1 and rows < self.size:
            return
        smallest = min(SMALLEST, self.limit)
        self.size = min(max(int(self.size * factor), smallest), self.limit)

    def rest(self, at_most: float | None = None) -> None:
        """Sleep in proportion to the work since the last rest, but not for more than so many seconds."""
        worked = max(0.0, self._clock() - self._awake_since)
        pause = min(worked * (1 / self.share - 1), LONGEST_REST)
        if at_most is not None:
            pause = min(pause, at_most)
        if pause > 0:
            self._sleep(pause)
        self._awake_since = self._clock()
