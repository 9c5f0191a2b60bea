from __future__ import annotations

import math
import secrets
import time
from typing import TYPE_CHECKING, Self

from idempotency.exceptions import AlreadyHandled, OperationInProgress
from idempotency.keys import ScopedKey
from idempotency.models import IdempotencyRecord
from idempotency.shards.routing import database_for
from idempotency.transactions import GuardedTransaction
from idempotency.unique_ids.base import Answer, OnFailure, Said
from idempotency.work import WorkGuard

if TYPE_CHECKING:
    from idempotency.unique_ids.base import BaseUniqueIdStore

NONCE_BYTES = 16


class UniqueIdGuard(WorkGuard):
    """Entered once per id and window: entering raises AlreadyHandled from then on.

    In the database of the work, id and work are one transaction: both are kept, or neither is. Anywhere
    else the id is claimed first, and counts as handled when the work has committed. Work that fails is
    rolled back before the id is discarded again (on_failure). A crash in between leaves the id claimed:
    entering raises OperationInProgress until the deadline, and then on_unknown decides.

    Work that takes longer than the claim is rolled back, if somebody else has had the id since.
    """

    mechanism = "unique-id"

    def __init__(
        self,
        store: BaseUniqueIdStore,
        digest: bytes,
        key: ScopedKey,
        *,
        on_failure: OnFailure | None = None,
        using: str | None = None,
    ) -> None:
        if on_failure not in (None, "discard", "keep"):
            raise ValueError(f"on_failure is 'discard' or 'keep', not {on_failure!r}.")
        using = using or database_for(IdempotencyRecord)
        self.store, self.digest = store, digest
        self.is_kept = (on_failure or store.on_failure) == "keep"
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._claimed_at = 0.0
        super().__init__(
            key,
            using=using,
            database=store.database,
            has_transaction=store.database == using or not self.is_kept,
        )

    def __enter__(self) -> Self:
        if self._claimed_at and not self.is_open:
            # Entered before: what that entry has given up must stay so.
            self._nonce, self._claimed_at = secrets.token_bytes(NONCE_BYTES), 0.0
        return super().__enter__()

    def _take_joint(self) -> None:
        self._settle(self.store.join(self.digest))

    def _take_first(self) -> None:
        # Of the first attempt: a second one is told that the id is its own, and gets no more time.
        self._claimed_at = self._claimed_at or time.monotonic()
        self._settle(self.store.claim(self.digest, self._nonce))

    def _settle(self, said: Said) -> None:
        if said.answer is Answer.HANDLED:
            raise AlreadyHandled(self)
        if said.answer is Answer.CLAIMED:
            raise in_progress(said)

    def _may_fail_open(self) -> bool:
        return self.store.fail_open

    def _give_up(self) -> None:
        self.store.give_up([self.digest], self._nonce)

    def _before_commit(self, transaction: GuardedTransaction) -> None:
        spent = time.monotonic() - self._claimed_at
        if self.is_joint or self.failed_open or spent < self.store.claim_for.total_seconds() / 2:
            return
        if not self.store.confirm(self.digest, self._nonce):
            transaction.roll_back()
            raise OperationInProgress("The work took longer than its claim, and was rolled back.")

    def _free(self) -> None:
        if self.is_joint:
            return
        if self.is_kept:
            self.store.finish(self.digest, self._nonce)
        else:
            self._give_up()

    def _over(self) -> None:
        if not self.is_joint and not self.failed_open:
            self.store.finish(self.digest, self._nonce)
        super()._over()


def in_progress(said: Said) -> OperationInProgress:
    seconds = math.ceil(said.left.total_seconds())
    return OperationInProgress("This id is being handled: come back with it later.", retry_after=seconds)
