"""The record's guard, mode atomic: claim, business writes and response commit together."""

from __future__ import annotations

import math
import random
import time
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from django.db import DatabaseError, connections

from idempotency import conf
from idempotency.database import is_conflict
from idempotency.exceptions import (
    AlreadyCompleted,
    ClosedInside,
    FingerprintMismatch,
    OperationInProgress,
    OutcomeUnknown,
    ResultExpired,
)
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.nesting import adopted, disowned, entered, left
from idempotency.records.base import BaseRecordStore, Found, State
from idempotency.records.stores import store_class
from idempotency.responses import BodyState, StoredResponse
from idempotency.shards.claims import hold
from idempotency.shards.routing import slot_of
from idempotency.signals import abandoned, announce, claimed, completed
from idempotency.transactions import (
    CONFLICT_INSIDE,
    GuardedTransaction,
    is_failed_transaction,
    nothing_kept,
    translated,
)

CLAIM_ATTEMPTS = 4
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.1


class RecordGuard:
    """Entered at most once per key while its record is kept; everything inside is one transaction.

    Entering claims the key, or raises: AlreadyCompleted (with the record), OperationInProgress,
    FingerprintMismatch, OutcomeUnknown, ResultExpired, StoreUnavailable. Inside, call ``complete()``
    with what was answered, or ``abandon()``. Leaving then commits the database effects together with
    the record, or rolls both back; leaving by an exception abandons. Leaving may raise the same
    errors as entering: whatever it raises before the commit has rolled everything back.

    Entered within a transaction (ATOMIC_REQUESTS, TestCase), the guard uses a savepoint of it, and
    record and effects stand or fall with that transaction.

    Effects outside the records' database are not covered.
    """

    mechanism = "record"

    def __init__(
        self,
        key: ScopedKey,
        fingerprint: Fingerprint,
        *,
        using: str,
        retention: timedelta | None = None,
        wait: timedelta = timedelta(0),
    ) -> None:
        self.key = key
        self.fingerprint = fingerprint
        self.using = using
        self.wait = min(wait, conf.LONGEST_WAIT)
        self.retention = conf.retention() if retention is None else retention
        self._response: StoredResponse | None = None
        self._keep_writes = True
        self._abandoned = False

    def complete(self, response: StoredResponse, *, keep_writes: bool = True) -> None:
        """Say what the operation answered. With ``keep_writes=False`` its writes are rolled back and
        the answer is recorded all the same: the rule for an exception that became a response."""
        self._response = response
        self._keep_writes = keep_writes

    def abandon(self, *, is_known: bool = True) -> None:
        """Roll back on leaving and free the key. ``is_known``: whether it is known that nothing was done,
        outside of the database either."""
        self._abandoned = True

    @property
    def operation_key(self) -> ScopedKey:
        """Of which downstream keys are made, also within guards that have keys of their own."""
        return self.key

    @property
    def is_one_transaction(self) -> bool:
        """Whether everything inside commits together."""
        return True

    @property
    def database(self) -> str | None:
        return self.using

    @property
    def is_open(self) -> bool:
        return self._transaction.is_open

    def take_patience(self) -> float | None:
        return 0.0  # the database waits, and tells at once

    def lose_patience(self) -> None:
        """It has none."""

    def adopt(self) -> None:
        adopted(self)

    def disown(self) -> None:
        disowned(self)

    def __enter__(self) -> Self:
        connection = connections[self.using]
        # First: a guard that is open already must keep what it has to leave.
        self._nesting = entered(connection, self)
        self._transaction = GuardedTransaction(self.using, on_commit=self._announce_completed)
        self._store: Any = self._new_store()
        try:
            self._claim_or_wait()
            announce(claimed, self.key, using=self.using)
        except BaseException as error:
            self._transaction.roll_back(error)
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conflict = self._transaction.conflict_behind(error)
        try:
            if error is not None or conflict is not None or self._abandoned:
                self._transaction.roll_back(error)
            else:
                self._finish(self._response or StoredResponse())
            if conflict:
                raise OperationInProgress(CONFLICT_INSIDE) from conflict
        finally:
            self._leave()
            if not self._transaction.committed:
                announce(abandoned, self.key, using=self.using)

    # Entering

    def _new_store(self) -> BaseRecordStore:
        connection = connections[self.using]
        return store_class(connection)(
            *(connection, self.key, self.fingerprint, self.retention),
            slot=slot_of(self.using),
        )

    def _claim_or_wait(self) -> None:
        nested = self._transaction.connection.in_atomic_block
        deadline = time.monotonic() + self.wait.total_seconds()
        while True:
            try:
                with translated():
                    return self._claim_with_retries(nested)
            except OperationInProgress:
                # A waiter must hold no transaction open, and an outer one is not ours to close.
                left_over = deadline - time.monotonic()
                if nested or left_over <= 0:
                    raise
                time.sleep(min(left_over, random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)))

    def _claim_with_retries(self, nested: bool) -> None:
        """Nothing of the user's has run: what the database refuses for a conflict may be repeated,
        unless the conflict has cost the transaction around it too."""
        for attempt in range(1, CLAIM_ATTEMPTS + 1):
            try:
                return self._claim()
            except DatabaseError as error:
                if nested or attempt == CLAIM_ATTEMPTS or not is_conflict(error):
                    raise
            except OperationInProgress as refusal:
                # InnoDB's gap locks can refuse a neighbour's key as if it were this one's.
                if attempt == CLAIM_ATTEMPTS or not is_conflict(refusal.__cause__):
                    raise
            time.sleep(random.uniform(0, SHORTEST_PAUSE * attempt))

    def _claim(self) -> None:
        # Outside the transaction, so that a replay costs one statement.
        expired = self._settle(self._store.find())
        with self._transaction.opened():
            hold(self.using)
            if self._settle(self._store.claim(expired)):
                raise OperationInProgress

    def _settle(self, found: Found | None) -> Found | None:
        """Answer from a record; hand back an expired one, which the claim replaces."""
        if found is None:
            return None
        record = found.record
        if not found.live and found.is_done:
            return found
        self._require_same_payload(found)
        if found.is_leased:
            raise OperationInProgress(retry_after=math.ceil(found.seconds))
        # Without a lease, a running record is committed only where the handler ended the transaction (DDL
        # on MySQL). Nobody works on it; what became of its effects an operator must see.
        if record.state != State.COMPLETED:
            raise OutcomeUnknown
        if record.body_state == BodyState.DROPPED:
            raise ResultExpired
        raise AlreadyCompleted(self, record)

    def _require_same_payload(self, found: Found) -> None:
        if not self.fingerprint.matches(bytes(found.record.fingerprint)):
            raise FingerprintMismatch

    # Leaving

    def _finish(self, response: StoredResponse) -> None:
        connection = self._transaction.connection
        if connection.closed_in_transaction:
            self._transaction.roll_back()
            raise ClosedInside
        # Also what only the database knows: the record may have been written before it failed.
        if self._keep_writes and self._transaction.is_broken:
            return self._finish_broken(response, self._transaction.swallowed_error)
        if not self._keep_writes:
            self._transaction.roll_back()
            return self._record_without_writes(response)
        try:
            self._complete(response)
        except DatabaseError as error:
            if self._transaction.committed or not is_failed_transaction(error):
                raise
            self._finish_broken(response, error)

    def _finish_broken(self, response: StoredResponse, error: BaseException | None) -> None:
        """The handler swallowed an error that cost it its writes, or marked them for rollback. A
        refusal of its own stands all the same; a success that nothing is left of is no success."""
        self._transaction.roll_back(error)
        if response.status is not None and response.status >= 400:
            return self._record_without_writes(response)
        raise nothing_kept() from error

    def _record_without_writes(self, response: StoredResponse) -> None:
        """Record an answer in a second transaction. Whoever claimed the key in between wins."""
        self._store.claimed_by_row = False
        with translated():
            self._claim()
        self._complete(response)

    def _complete(self, response: StoredResponse) -> None:
        try:
            with translated():
                done = self._store.complete(response)
        except BaseException as error:
            self._transaction.roll_back(error)
            raise
        if not done:
            self._transaction.roll_back()
            with translated():
                self._settle(self._store.find())
            raise OperationInProgress(CONFLICT_INSIDE)
        self._transaction.commit()

    def _announce_completed(self) -> None:
        announce(completed, self.key, using=self.using)

    def _leave(self) -> None:
        self._store.close()
        left(self._nesting)
