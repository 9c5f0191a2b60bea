from __future__ import annotations

import secrets
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from django.db import DatabaseError, connections, router
from django.db.transaction import on_commit

from idempotency import conf
from idempotency.exceptions import OperationInProgress, OutcomeUnknown, StoreUnavailable
from idempotency.models import IdempotencyRecord
from idempotency.nesting import Nesting, adopted, disowned, entered, left
from idempotency.signals import abandoned, announce, claimed, completed, failed_open
from idempotency.tokens.answers import OnFailure, settle
from idempotency.tokens.texts import PresentedToken
from idempotency.transactions import CONFLICT_INSIDE, GuardedTransaction, nothing_kept, translated

if TYPE_CHECKING:
    from idempotency.tokens.base import BaseTokenStore

NONCE_BYTES = 16
ATTEMPTS = 2


class TokenGuard:
    """Entered at most once per token.

    Leaving by an exception, or after ``abandon()``, is a failure: see OnFailure. A token is not restored
    when the outcome is unknown: the process died, or a commit was not answered.

    In the database of the work, token and work are one transaction: both are kept, or neither is.
    """

    def __init__(
        self,
        store: BaseTokenStore,
        token: PresentedToken,
        *,
        on_failure: OnFailure = "consume",
        nonce: bytes | None = None,
        using: str | None = None,
        within: bool = False,
    ) -> None:
        self.store = store
        self.token = token
        self.key = token.key
        self.using = using or conf.database() or router.db_for_write(IdempotencyRecord)
        self.is_joint = store.database == self.using
        self.failed_open = False
        # The caller's nonce lets its next attempt in again. To give the token back as well could undo
        # that attempt's consumption, if this one's message came late.
        self._is_for_once = nonce is None and not self.is_joint
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._restores = self._is_for_once and on_failure == "restore"
        self._within = within
        self._has_transaction = not within and (self.is_joint or self._restores)
        self._transaction: GuardedTransaction | None = None
        self._nesting: Nesting | None = None
        self._is_entered = False
        self._abandoned = False
        self._keep_writes = True
        self._succeeded = True
        self._committing = False

    def complete(self, *, succeeded: bool = True, keep_writes: bool = True) -> None:
        """Say how it went; by default it succeeded. With ``keep_writes=False`` the writes are rolled back
        although the operation is over: the rule for an exception that became a response."""
        self._succeeded, self._keep_writes = succeeded, keep_writes

    def abandon(self) -> None:
        """Say that it failed: roll back what there is of a transaction, and restore if that is wanted."""
        self._abandoned = True

    @property
    def is_open(self) -> bool:
        return self._is_entered

    def adopt(self) -> None:
        if self._nesting:
            adopted(self)

    def disown(self) -> None:
        disowned(self)

    def __enter__(self) -> Self:
        if self._is_entered:
            raise OperationInProgress("This guard is open already.")
        try:
            if self.is_joint:
                self._open_transaction()
                with translated():
                    settle(self.store.take(self.token, secrets.token_bytes(NONCE_BYTES)))
            else:
                self._take_first()
        except BaseException as error:
            self._leave(error)
            raise
        announce(claimed, self.key, using=self.store.database, mechanism="token")
        self._is_entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_entered = False
        over: bool | None = None
        try:
            over = self._end(error)
        except BaseException as failure:
            over = self._is_over_after(failure)
            if over is None and self._restores and isinstance(failure, StoreUnavailable):
                # The token stays spent, so a retry would be told that it was used: neither is known.
                raise OutcomeUnknown from failure
            raise
        finally:
            self._leave()
            if over is False and self._restores and not self.failed_open:
                self.store.give_back(self.token, self._nonce)
            if not over:
                announce(abandoned, self.key, using=self.store.database, mechanism="token")
            elif not (self._transaction and self._transaction.committed):
                self._announce_completed()

    # Entering

    def _take_first(self) -> None:
        """Consume, committed before the work begins. A reply may be lost, so it is asked for again,
        with the same nonce: whoever has won is told so."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                settle(self.store.take(self.token, self._nonce, comes_again=not self._is_for_once))
                break
            except StoreUnavailable as error:
                if attempt < ATTEMPTS:
                    continue
                if self.store.fail_open:
                    self._fail_open(error)
                    break
                self._give_up()
                raise
        try:
            self._open_transaction()
        except BaseException:
            self._give_up()
            raise

    def _fail_open(self, error: StoreUnavailable) -> None:
        self.failed_open = True
        announce(failed_open, self.key, using=self.store.database, mechanism="token", error=error)

    def _give_up(self) -> None:
        """It may have been consumed after all, by an attempt that will never run."""
        if self._is_for_once:
            self.store.give_back(self.token, self._nonce)

    def _open_transaction(self) -> None:
        if not self._has_transaction:
            return
        self._nesting = entered(connections[self.using], self)
        self._transaction = GuardedTransaction(self.using, on_commit=self._announce_completed)
        with translated(), self._transaction.opened():
            pass

    # Leaving

    def _end(self, error: BaseException | None) -> bool:
        """End the work. Whether the token is spent: the work is done, or was refused for good."""
        failed = error is not None or self._abandoned
        transaction = self._transaction
        if transaction is None:
            return not failed and (self._keep_writes or not self.is_joint)
        conflict = transaction.conflict_behind(error)
        if failed or conflict is not None:
            transaction.roll_back(error)
            if conflict:
                raise OperationInProgress(CONFLICT_INSIDE) from conflict
            return False
        if transaction.connection.closed_in_transaction:
            transaction.roll_back()
            raise StoreUnavailable
        if transaction.is_broken:
            swallowed = transaction.swallowed_error
            transaction.roll_back(swallowed)
            if self._succeeded and self._keep_writes:
                raise nothing_kept() from swallowed
        elif self._keep_writes:
            self._committing = True
            transaction.commit()
            return True
        else:
            transaction.roll_back()
        return not self.is_joint

    def _is_over_after(self, failure: BaseException) -> bool | None:
        """None: the commit was sent, and what became of it is not known."""
        if self._transaction and self._transaction.committed:
            return True
        was_told = isinstance(failure, OperationInProgress | DatabaseError)
        return None if self._committing and not was_told else False

    def _leave(self, error: BaseException | None = None) -> None:
        if self._transaction and self._transaction.is_open:
            self._transaction.roll_back(error)
        if self._nesting:
            left(self._nesting)
            self._nesting = None

    def _announce_completed(self) -> None:
        announce_it = partial(announce, completed, self.key, using=self.store.database, mechanism="token")
        if self._within and self._keep_writes:
            on_commit(announce_it, using=self.using, robust=True)
        else:
            announce_it()
