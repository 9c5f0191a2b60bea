from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx

SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
UNAVAILABLE = {httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT}
# Nobody knows whether the server has acted.
BROKEN = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
MOST_DOUBLINGS = 30


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a request is sent, and for how long. Times are in seconds."""

    attempts: int = 6
    """At most, with the first."""
    give_up_after: float = 60.0
    """No attempt begins later than this after the first."""
    pause: float = 0.25
    """Before the second attempt at most, and twice as much before each further one: drawn at random, so
    that callers do not come back all at once. A server's Retry-After comes on top."""
    longest_pause: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(f"attempts is an int above 0, not {self.attempts!r}.")
        for name in ("give_up_after", "pause", "longest_pause"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is a number of seconds, 0 or more, not {value!r}.")


PATIENT = Retries()


class Options(NamedTuple):
    retries: Retries
    header: str
    make_key: Callable[[], str]


class Exchange:
    """One request, and how it has gone so far."""

    def __init__(self, request: httpx.Request, options: Options) -> None:
        self.request, self.retries = request, options.retries
        self.is_keyed = request.method.upper() not in SAFE_METHODS
        if self.is_keyed and options.header not in request.headers:
            request.headers[options.header] = options.make_key()
        self._sent = 0
        self._began = time.monotonic()

    def pause_after(self, outcome: httpx.Response | Exception) -> float | None:
        """Seconds until it is to be sent again; None: that is what came of it."""
        self._sent += 1
        asked_for = 0.0
        if isinstance(outcome, httpx.Response):
            told = retry_after(outcome)
            if not (outcome.status_code in UNAVAILABLE or (outcome.status_code == 409 and told is not None)):
                return None
            asked_for = told or 0.0
        elif not isinstance(outcome, BROKEN):
            return None
        longest = min(
            self.retries.longest_pause, self.retries.pause * 2 ** min(self._sent - 1, MOST_DOUBLINGS)
        )
        pause = asked_for + random.uniform(0, longest)
        ends = time.monotonic() - self._began + pause
        if self._sent >= self.retries.attempts or ends > self.retries.give_up_after:
            return None
        return pause


def retry_after(response: httpx.Response) -> float | None:
    """Seconds; None where the server says nothing that can be understood."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
