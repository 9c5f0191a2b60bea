"""The record's guards, as a message needs them: known by its id alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from idempotency.exceptions import AlreadyCompleted, OperationInProgress, OutcomeUnknown
from idempotency.fingerprints import AnyPayload
from idempotency.keys import ScopedKey
from idempotency.leases import LeaseGuard
from idempotency.records import RecordGuard
from idempotency.records.base import Found
from idempotency.responses import StoredResponse
from idempotency.shards.claims import hold

NO_ANSWER = StoredResponse.from_result(None)


class InboxGuard(RecordGuard):
    """``transactional``: claim, business writes, outgoing messages and the record commit together.

    ``answers``: whether what is returned is kept, so that the record cannot be written before.
    """

    def __init__(self, key: ScopedKey, *, using: str, retention: timedelta, answers: bool = False) -> None:
        super().__init__(key, AnyPayload(), using=using, retention=retention)
        self._answers = answers

    def _claim(self) -> None:
        # Not looked for before: unlike retries of requests, most messages come once.
        with self._transaction.opened():
            hold(self.using)
            if not self._answers and self._store.claim_and_complete(NO_ANSWER):
                return
            if self._settle(self._store.claim(None)):
                raise OperationInProgress


class AgainGuard(LeaseGuard):
    """``at_least_once``: the claim commits first, and whatever fails is run again."""

    def __init__(self, key: ScopedKey, *, using: str, retention: timedelta, lease: timedelta | None) -> None:
        super().__init__(key, AnyPayload(), using=using, retention=retention, lease=lease, rerun=True)


class OnceGuard(LeaseGuard):
    """``at_most_once``: the claim commits first, and what ends without an answer is unknown.

    ``ask`` says what became of it: True: done; False: not done, and it never will be; None: not known.
    ``not_done``: exceptions of the block after which it is known that nothing was done.
    """

    def __init__(
        self,
        key: ScopedKey,
        *,
        using: str,
        retention: timedelta,
        lease: timedelta | None,
        ask: Callable[[], bool | None] | None,
        not_done: tuple[type[BaseException], ...],
    ) -> None:
        super().__init__(key, AnyPayload(), using=using, retention=retention, lease=lease)
        self._ask, self._not_done = ask, not_done

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, self._not_done):
            self.abandon(is_known=True)
        super().__exit__(kind, error, traceback)

    def _take_up(self, found: Found) -> None:
        try:
            super()._take_up(found)
        except OutcomeUnknown as unknown:
            # Also what another kind of delivery has left, from before a deployment.
            self._store.doubt(found)
            if self._ask is None:
                raise
            was_done = self._answer(self._ask)
            if was_done is None:
                raise
            self._reclaim(found, was_done, unknown)

    def _answer(self, ask: Callable[[], bool | None]) -> bool | None:
        try:
            answer = ask()
        except Exception as error:
            raise OutcomeUnknown(
                f"What became of it could not be asked ({type(error).__name__}): it is asked again."
            ) from error
        if answer not in (True, False, None):
            raise TypeError(
                "reconcile returns True (it was done), False (it was not, and never will be) or None (not "
                f"known), not {answer!r}."
            )
        return answer

    def _reclaim(self, found: Found, was_done: bool, unknown: OutcomeUnknown) -> None:
        """Under the fence that was asked about: of several who have asked, one goes on."""
        if not self._store.reclaim(found):
            raise OperationInProgress
        if was_done:
            lease = self._store.lease
            assert lease
            lease.is_settled = True
            if not self._store.complete(NO_ANSWER):
                raise OperationInProgress
            raise AlreadyCompleted(self, found.record) from unknown
