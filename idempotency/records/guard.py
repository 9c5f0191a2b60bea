"""The record's guard, mode atomic: claim, business writes and response commit together."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from django.db import DatabaseError, InterfaceError, connections, transaction

from idempotency import conf
from idempotency.database import FAILED_TRANSACTION, is_conflict, is_outage, sqlstate
from idempotency.exceptions import (
    AlreadyCompleted,
    FingerprintMismatch,
    OperationInProgress,
    OutcomeUnknown,
    ResultExpired,
    StoreUnavailable,
)
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.records.base import Found, State
from idempotency.records.nesting import entered, left
from idempotency.records.stores import store_class
from idempotency.responses import BodyState, StoredResponse
from idempotency.signals import abandoned, announce, claimed, completed

CLAIM_ATTEMPTS = 4
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.1
CONFLICT_INSIDE = "The operation lost a conflict and was rolled back: retry with the same key."


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
        self._conflict: BaseException | None = None
        self._committed = False
        self._atomic: Any = None

    def complete(self, response: StoredResponse, *, keep_writes: bool = True) -> None:
        """Say what the operation answered. With ``keep_writes=False`` its writes are rolled back and
        the answer is recorded all the same: the rule for an exception that became a response."""
        self._response = response
        self._keep_writes = keep_writes

    def abandon(self) -> None:
        """Roll back on leaving and free the key."""
        self._abandoned = True

    @property
    def is_open(self) -> bool:
        return self._atomic is not None

    def __enter__(self) -> Self:
        self._connection: Any = connections[self.using]
        self._store = store_class(self._connection)(
            self._connection, self.key, self.fingerprint, self.retention
        )
        self._nesting = entered(self._connection, self)
        try:
            self._enter()
        except BaseException:
            self._leave()
            raise
        announce(claimed, self.key, using=self.using)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._roll_back(kind, error, traceback)
                if is_conflict(error) or (self._conflict and isinstance(error, Exception)):
                    raise OperationInProgress(CONFLICT_INSIDE) from error
            elif self._conflict is not None:
                self._roll_back()
                raise OperationInProgress(CONFLICT_INSIDE) from self._conflict
            elif self._abandoned:
                self._roll_back()
            else:
                self._finish(self._response or StoredResponse())
        finally:
            self._leave()
            if not self._committed:
                announce(abandoned, self.key, using=self.using)

    # Entering

    def _enter(self) -> None:
        nested = self._connection.in_atomic_block
        deadline = time.monotonic() + self.wait.total_seconds()
        attempts = 1 if nested else CLAIM_ATTEMPTS
        while True:
            try:
                return self._claim_with_retries(attempts)
            except OperationInProgress:
                # A waiter must hold no transaction open, and an outer one is not ours to close.
                left_over = deadline - time.monotonic()
                if nested or left_over <= 0:
                    raise
                time.sleep(min(left_over, random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)))

    def _claim_with_retries(self, attempts: int) -> None:
        for attempt in range(1, attempts + 1):
            try:
                return self._claim()
            except (DatabaseError, InterfaceError) as error:
                if is_conflict(error) and attempt == attempts:
                    raise OperationInProgress from error
                if not is_conflict(error):
                    self._raise_store_error(error)
            except OperationInProgress as refusal:
                # InnoDB's gap locks can refuse a neighbour's key: only a second look tells.
                if attempt == attempts or not is_conflict(refusal.__cause__):
                    raise
            time.sleep(random.uniform(0, SHORTEST_PAUSE * attempt))

    def _claim(self) -> None:
        # Outside the transaction, so that a replay costs one statement.
        expired = self._settle(self._store.find())
        atomic = transaction.atomic(using=self.using)
        atomic.__enter__()
        try:
            self._settle(self._store.claim(expired))
        except BaseException as error:
            atomic.__exit__(type(error), error, error.__traceback__)
            raise
        self._atomic = atomic
        # Django never clears it: an error of an earlier transaction is none of this one's.
        self._connection.rollback_exc = None
        if not self._connection.savepoint_ids:
            # The first hook of the transaction: what fails after it failed after the commit.
            transaction.on_commit(self._after_commit, using=self.using)
        self._connection.execute_wrappers.append(self._watch)

    def _settle(self, found: Found | None) -> Found | None:
        """Answer from a live record; hand back an expired one."""
        if found is None or not found.live:
            return found
        record = found.record
        if not self.fingerprint.matches(bytes(record.fingerprint)):
            raise FingerprintMismatch
        if record.state == State.RUNNING:
            raise OperationInProgress
        if record.state == State.UNKNOWN:
            raise OutcomeUnknown
        if record.body_state == BodyState.DROPPED:
            raise ResultExpired
        raise AlreadyCompleted(self, record)

    def _watch(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        """Notice a conflict that the handler swallows: what it rolled back must not be committed."""
        try:
            return execute(sql, params, many, context)
        except DatabaseError as error:
            if is_conflict(error):
                self._conflict = error
            raise

    # Leaving

    def _finish(self, response: StoredResponse) -> None:
        connection = self._connection
        if connection.closed_in_transaction:
            self._roll_back()
            raise StoreUnavailable
        if connection.needs_rollback and self._keep_writes and connection.rollback_exc is not None:
            return self._finish_broken(response, connection.rollback_exc)
        if not self._keep_writes or connection.needs_rollback:
            self._roll_back()
            return self._record_without_writes(response)
        try:
            self._complete(response)
        except DatabaseError as error:
            # PostgreSQL had ended the transaction at an error that the handler swallowed.
            if sqlstate(error) != FAILED_TRANSACTION:
                raise
            self._finish_broken(response, error)

    def _finish_broken(self, response: StoredResponse, error: BaseException) -> None:
        """The handler swallowed a database error that cost it its writes. A refusal of the view's
        own stands all the same; a success that nothing is left of must not be recorded."""
        self._roll_back()
        if response.status is not None and response.status >= 400:
            return self._record_without_writes(response)
        raise transaction.TransactionManagementError(
            "The operation reported success after a database error had broken its transaction, so "
            "nothing was kept. Put the statement that may fail into its own transaction.atomic()."
        ) from error

    def _record_without_writes(self, response: StoredResponse) -> None:
        """Record an answer in a second transaction. Whoever claimed the key in between wins."""
        self._store.claimed_by_row = False
        with self._translated():
            self._claim()
        self._complete(response)

    def _complete(self, response: StoredResponse) -> None:
        with self._translated():
            try:
                done = self._store.complete(response)
            except BaseException as error:
                self._roll_back(type(error), error)
                raise
        if not done:
            self._roll_back()
            with self._translated():
                self._settle(self._store.find())
            raise OperationInProgress(CONFLICT_INSIDE)
        self._commit()

    def _commit(self) -> None:
        nested = bool(self._connection.savepoint_ids)
        try:
            self._end_transaction(None, None, None)
        except (DatabaseError, InterfaceError) as error:
            if self._committed:  # a hook's error, not the commit's
                raise
            self._raise_store_error(error)
        if nested:
            # Known to stand only when the transaction around it has committed.
            self._committed = True
            transaction.on_commit(
                partial(announce, completed, self.key, using=self.using), using=self.using, robust=True
            )

    def _after_commit(self) -> None:
        self._committed = True
        announce(completed, self.key, using=self.using)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, InterfaceError) as error:
            if sqlstate(error) == FAILED_TRANSACTION:
                raise
            self._raise_store_error(error)

    def _raise_store_error(self, error: DatabaseError | InterfaceError) -> NoReturn:
        """Conflicts and outages as what they are to the caller; a defect as it is."""
        if is_conflict(error):
            raise OperationInProgress(CONFLICT_INSIDE) from error
        if is_outage(error):
            raise StoreUnavailable from error
        raise error

    def _roll_back(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if error is None:
            error = _RolledBack()
        self._end_transaction(kind or type(error), error, traceback)

    def _end_transaction(self, *exc_info: Any) -> None:
        atomic, self._atomic = self._atomic, None
        if atomic is not None:
            self._connection.execute_wrappers.remove(self._watch)
            atomic.__exit__(*exc_info)

    def _leave(self) -> None:
        self._store.close()
        left(self._nesting)


class _RolledBack(Exception):
    """Makes an atomic block roll back; never leaves the guard."""
