from __future__ import annotations

from datetime import timedelta
from typing import Any

from idempotency.exceptions import BrokenCall, IdempotencyError, LeaseLost, OperationInProgress
from idempotency.fingerprints import AnyPayload
from idempotency.keys import ScopedKey
from idempotency.leases.guard import LeaseGuard
from idempotency.leases.lease import Lease
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.records.base import Found
from idempotency.responses import StoredResponse
from idempotency.shards.routing import alias_at
from idempotency.steps.operation import Operation
from idempotency.transactions import asked, translated

FIRST_PAUSE, LONGEST_PAUSE, MOST_DOUBLINGS = timedelta(seconds=5), timedelta(minutes=10), 10


class ResumedGuard(LeaseGuard):
    """Goes on with an operation that was abandoned, without the caller who began it.

    When the operation's result is not what is answered, the record is then finished: whoever asks next
    runs what is around the operation, which has its result.
    """

    def __init__(self, record: IdempotencyRecord, run: OperationRun, operation: Operation[..., Any]) -> None:
        super().__init__(
            stored_key(record),
            AnyPayload(),
            using=alias_at(record._state.db, record.slot),
            retention=run.retention,
            operation=operation,
            is_answer=run.is_answer,
        )
        self._found = Found(record, 0.0)
        self._attempts = run.attempts

    def _claim(self) -> None:
        with asked(self.using):
            if not self._store.take_over(self._found):
                raise OperationInProgress
        self._begin(self._store.lease)

    def _finish(self, response: StoredResponse) -> None:
        if self.terms.is_answer:
            return super()._finish(response)
        assert self.run
        if self.run.broken:
            raise BrokenCall(self.run.broken)
        self.run.require_ended()
        with translated(), self._transaction.opened():
            pass
        if not self.run.lease.finish(self.retention):
            self._transaction.roll_back()
            raise LeaseLost
        self._transaction.commit()

    def _settle_lost(self) -> None:
        """Nobody is here to be answered."""

    def _end(self, lease: Lease, failure: BaseException | None) -> IdempotencyError | None:
        assert self.run
        if failure is not None and failure is self.run.refusal:
            return super()._end(lease, failure)
        doublings = min(self._attempts, MOST_DOUBLINGS)
        self.run.end(failure, min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE))
        return None


def stored_key(record: IdempotencyRecord) -> ScopedKey:
    run: OperationRun | None = getattr(record, "run", None)
    principal = (run.principal_kind, run.principal_id) if run else ("", "")
    key = ScopedKey(principal, record.operation, record.key)
    # As they were stored: of an anonymous caller's key nothing else was.
    key.__dict__.update(scope=bytes(record.scope), key_digest=bytes(record.key_digest))
    return key
