from __future__ import annotations

import time

# Counts on while the machine is suspended, where the system has such a clock.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on the clock by which holders reckon what is left to them."""
    return time.clock_gettime(CLOCK)
