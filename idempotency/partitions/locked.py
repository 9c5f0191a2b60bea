"""Changing a table under live traffic, without a queue behind whoever waits for its lock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError, connections, transaction

from idempotency.database import LOCK_NOT_AVAILABLE, is_conflict, sqlstate

QUERY_CANCELED = "57014"
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 1.0


class NeverFree(Exception):
    """The table was in use at every attempt. Nothing was changed."""


@dataclass
class Patience:
    """Each attempt is a transaction of its own, which waits for a lock for ``lock_timeout`` milliseconds at
    most, since all traffic waits behind it. Once it has the locks, a statement takes ``longest`` seconds at
    most, or as many as it may where that is 0."""

    using: str
    lock_timeout: int = 100
    longest: float = 5.0
    attempts: int = 30

    def change(self, step: Callable[[Any], Any], *locks: str) -> Any:
        """What ``step(cursor)`` returns, run once in a transaction that has the locks, such as
        ``"ONLY record IN ACCESS EXCLUSIVE MODE"``. Raises NeverFree."""
        for attempt in range(1, self.attempts + 1):
            try:
                with self._transaction() as cursor:
                    for lock in locks:
                        cursor.execute(f"LOCK TABLE {lock}")
                    return step(cursor)
            except DatabaseError as error:
                if sqlstate(error) == QUERY_CANCELED:
                    raise NeverFree(f"it took more than {self.longest:g} s, and was undone") from error
                if sqlstate(error) != LOCK_NOT_AVAILABLE and not is_conflict(error):
                    raise
                if attempt == self.attempts:
                    tried = f"{attempt} attempts of {self.lock_timeout} ms each"
                    raise NeverFree(f"the table was in use at {tried}") from error
            time.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with transaction.atomic(using=self.using), connections[self.using].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(f"SET LOCAL lock_timeout = {self.lock_timeout}")
            cursor.execute(f"SET LOCAL statement_timeout = {int(self.longest * 1000)}")
            yield cursor
