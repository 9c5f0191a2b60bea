"""The record's guard, mode lease: the claim commits first, for work that calls outside."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from django.db import Error, connections

from idempotency import conf
from idempotency.exceptions import (
    BrokenCall,
    IdempotencyError,
    LeaseLost,
    OperationInProgress,
    OutcomeUnknown,
    StoreUnavailable,
)
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.leases.lease import Lease
from idempotency.leases.store import LeaseStore
from idempotency.leases.terms import Terms
from idempotency.records.base import Found, State
from idempotency.records.guard import RecordGuard
from idempotency.renewal import no_longer_renew, renew
from idempotency.responses import StoredResponse
from idempotency.steps.downstream import identity_of
from idempotency.steps.operation import Operation
from idempotency.steps.run import Run
from idempotency.transactions import asked, is_within_transaction, translated

logger = logging.getLogger("idempotency")


class LeaseGuard(RecordGuard):
    """Entered by one at a time per key, and again by the next when its time is over.

    Entering commits the claim, and raises what RecordGuard raises: OperationInProgress with the seconds
    that are left to whoever has it. The lease is renewed while the block runs. Without steps, everything
    inside is one transaction, which commits with the record, and only while the lease is still one's own:
    whoever comes late rolls back, and gets the winner's answer.

    What ends without an answer, in an exception or a crash, frees the key with ``rerun``. With an
    ``operation``, the next call goes on from its last point. Otherwise nobody knows what it has done
    outside: its outcome is unknown.
    """

    def __init__(
        self,
        key: ScopedKey,
        fingerprint: Fingerprint,
        *,
        using: str,
        retention: timedelta | None = None,
        wait: timedelta = timedelta(0),
        lease: timedelta | None = None,
        rerun: bool = False,
        operation: Operation[Any, Any] | None = None,
        is_answer: bool = False,
    ) -> None:
        super().__init__(key, fingerprint, using=using, retention=retention, wait=wait)
        lease = conf.lease() if lease is None else lease
        self.terms = Terms(lease, self.retention, rerun, operation, is_answer)
        self.run: Run | None = None
        self._is_known = True
        self._is_entered = False

    @property
    def is_one_transaction(self) -> bool:
        return self.terms.operation is None

    @property
    def is_open(self) -> bool:
        return self._is_entered

    @property
    def _is_claimed(self) -> bool:
        return getattr(self, "_store", None) is not None and self._store.lease is not None

    def abandon(self, *, is_known: bool = True) -> None:
        self._abandoned, self._is_known = True, is_known

    def __enter__(self) -> Self:
        try:
            super().__enter__()
        except BaseException:
            # Such as a time limit's: nothing was begun under it.
            if self._is_claimed:
                self._give_back(None)
            raise
        self._is_entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_entered = False
        failure = error
        try:
            super().__exit__(kind, error, traceback)
            if isinstance(error, LeaseLost):
                self._settle_lost()
        except BaseException as raised:
            failure = raised
            raise
        finally:
            if not self._transaction.committed and (instead := self._give_back(failure)):
                raise instead from failure

    # Entering

    def _new_store(self) -> LeaseStore:  # type: ignore[override]
        return LeaseStore(self.using, self.key, self.fingerprint, self.terms)

    def _claim_or_wait(self) -> None:
        if is_within_transaction(self.using):
            raise RuntimeError(
                f"Mode 'lease' commits its claim before the work begins, and a transaction of {self.using!r} "
                "is open around it: put @transaction.non_atomic_requests on the view, or leave the block."
            )
        super()._claim_or_wait()

    def _claim(self) -> None:
        with asked(self.using):
            if found := self._store.claim():
                self._take_up(found)
        assert self._store.lease
        self._begin(self._store.lease)

    def _begin(self, lease: Lease) -> None:
        # Within a TestCase nobody else sees the record, not even who renews it.
        if not connections[self.using].in_atomic_block:
            renew(lease)
        if self.terms.operation:
            identity = identity_of(self.key.scope, self.key.key_digest)
            self.run = Run(self, lease, self._store.run, self.terms.operation, identity)
            return
        with translated(), self._transaction.opened():
            pass

    def _take_up(self, found: Found) -> None:
        """Claim a key that has a record, or answer from it."""
        store = self._store
        if self._settle(found) and found.is_done and not found.live:
            taken = store.replace(found)
        else:
            self._require_resumable(found)
            taken = store.take_over(found)
        if not taken:
            raise OperationInProgress

    def _settle(self, found: Found | None) -> Found | None:
        """Answer from a record; hand back one that may be claimed, perhaps."""
        if found and found.is_leased:
            self._require_same_payload(found)
            raise OperationInProgress(retry_after=math.ceil(found.seconds))
        if found and found.record.state != State.COMPLETED:
            if found.live or not found.is_done:
                self._require_same_payload(found)
            return found
        return super()._settle(found)

    def _require_resumable(self, found: Found) -> None:
        run = self._store.run_of(found)
        if run is None:
            if found.record.state == State.RUNNING:
                self._store.doubt(found)
            raise OutcomeUnknown
        self.terms.require_same(run)
        if found.record.state == State.UNKNOWN and (found.live or not self.terms.may_ask(run)):
            raise OutcomeUnknown

    # Leaving

    def _finish(self, response: StoredResponse) -> None:
        if self.run is None:
            return super()._finish(response)
        if self.run.is_broken:
            raise BrokenCall(self.run.broken)
        self.run.require_ended()
        # Its steps have committed what it wrote.
        self._record_without_writes(response)

    def _record_without_writes(self, response: StoredResponse) -> None:
        with translated(), self._transaction.opened():
            pass
        self._complete(response)

    def _settle_lost(self) -> None:
        """The answer of whoever has taken it over, where there is one by now."""
        with asked(self.using):
            self._settle(self._store.find())

    def _leave(self) -> None:
        if lease := self._store.lease:
            lease.is_open = False
            no_longer_renew(lease)
        super()._leave()

    def _give_back(self, failure: BaseException | None) -> IdempotencyError | None:
        """End the lease before its time. What the caller is to hear instead of the failure, if anything."""
        lease = self._store.lease
        if lease is None or lease.is_settled or isinstance(failure, LeaseLost):
            return None
        try:
            with asked(self.using):
                return self._end(lease, failure)
        except (StoreUnavailable, OperationInProgress, Error) as error:
            logger.warning("not given back, and free when its time is over: %s (%s)", lease, error)
        return None

    def _has_done_nothing(self, failure: BaseException | None) -> bool:
        return self._is_known and (self._abandoned or failure is None)

    def _end(self, lease: Lease, failure: BaseException | None) -> IdempotencyError | None:
        is_refusal = isinstance(failure, IdempotencyError)
        if self.run and failure is not None and failure is self.run.refusal:
            # It is over, and whoever asks again is told the same.
            lease.finish(self.retention)
        elif self.run and self.run.has_points:
            self.run.end(failure)
            if self.run.cause is not None and failure is self.run.cause:
                # No defect of the program's: whoever retries is answered.
                logger.error("broke in %s: %s", self.run.broken, lease, exc_info=failure)
                return BrokenCall(self.run.broken)
        elif self.run or self.terms.rerun or self._has_done_nothing(failure):
            lease.forget()
        elif lease.lose_sight() and is_refusal:
            # Whoever is told to retry would then be told this.
            return OutcomeUnknown(guard=self)
        return None
