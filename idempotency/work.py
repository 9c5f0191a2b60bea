"""What the guards have in common that let work in and learn what became of it, without its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connections
from django.db.transaction import on_commit
from django.dispatch import Signal

from idempotency.exceptions import IdempotencyError, OperationInProgress, StoreUnavailable
from idempotency.keys import ScopedKey
from idempotency.nesting import Nesting, adopted, disowned, entered, left
from idempotency.shards.claims import hold
from idempotency.shards.routing import slot_of
from idempotency.signals import abandoned, announce, claimed, completed, failed_open
from idempotency.transactions import CONFLICT_INSIDE, GuardedTransaction, nothing_kept, translated

ATTEMPTS = 2


class WorkGuard(ABC):
    """Entered at most once per key, as the store of its mechanism says.

    Where the store is the database of the work ("joint"), both are one transaction: kept together, or
    lost together. Anywhere else the key is taken first, committed, and the store is told afterwards;
    a transaction of the guard's own around the work then makes sure what it is told.
    """

    mechanism: str

    def __init__(
        self,
        key: ScopedKey,
        *,
        using: str,
        database: str | None,
        has_transaction: bool,
        within: bool = False,
        is_joint: bool | None = None,
    ) -> None:
        self.key = key
        self.using = using
        self.is_joint = database == using if is_joint is None else is_joint
        self.failed_open = False
        self.database = database
        self._within = within
        # Freezing a slot waits for transactions, and for nothing else.
        self._has_transaction = (has_transaction or slot_of(using) is not None) and not within
        self._transaction: GuardedTransaction | None = None
        self._nesting: Nesting | None = None
        self._is_entered = False
        self._abandoned = False
        self._keep_writes = True
        self._succeeded = True
        self._committing = False

    @abstractmethod
    def _take_joint(self) -> None:
        """Take the key within the transaction that is open, or raise."""

    @abstractmethod
    def _take_first(self) -> None:
        """Take the key, committed before the work begins, or raise. May be called again at once: a
        reply may be lost, and whoever has won is then told so. Raises StoreUnavailable."""

    @abstractmethod
    def _give_up(self) -> None:
        """It may have been taken after all, by an attempt that will never run."""

    @abstractmethod
    def _free(self) -> None:
        """The work failed, and is known to have left nothing that a transaction of ours could undo."""

    def complete(self, *, succeeded: bool = True, keep_writes: bool = True) -> None:
        """Say how it went; by default it succeeded. With ``keep_writes=False`` the writes are rolled back
        although the operation is over: the rule for an exception that became a response."""
        self._succeeded, self._keep_writes = succeeded, keep_writes

    def abandon(self) -> None:
        """Say that it failed, as an exception would."""
        self._abandoned = True

    @property
    def is_open(self) -> bool:
        return self._is_entered

    def take_patience(self) -> float | None:
        return 0.0

    def lose_patience(self) -> None:  # noqa: B027
        """It has none."""

    def adopt(self) -> None:
        if self._nesting:
            adopted(self)

    def disown(self) -> None:
        disowned(self)

    def __enter__(self) -> Self:
        if self._is_entered:
            raise OperationInProgress("This guard is open already.")
        self.failed_open = self._committing = self._abandoned = False
        self._transaction = None
        try:
            if self.is_joint:
                self._open_transaction()
                with translated():
                    self._take_joint()
            else:
                self._take_or_fail_open()
            self._announce(claimed)
            self._is_entered = True
            return self
        except BaseException as error:
            self._leave(error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        over: bool | None = None
        try:
            self._is_entered = False
            over = self._end(error)
        except BaseException as failure:
            over = self._is_over_after(failure)
            if over is None:
                self._lost_sight(failure)
            raise
        finally:
            self._leave()
            if over is False and not self.failed_open:
                self._free()
            if not over:
                self._announce(abandoned)
            elif not (self._transaction and self._transaction.committed):
                self._over()

    # Entering

    def _take_or_fail_open(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._take_first()
                break
            except StoreUnavailable as error:
                if attempt < ATTEMPTS:
                    continue
                if self._may_fail_open():
                    self._fail_open(error)
                    break
                self._give_up()
                raise
            except IdempotencyError:
                raise
            except BaseException:
                # Such as a time limit's, which a signal's handler raises.
                with suppress(Exception):
                    self._give_up()
                raise
        try:
            self._open_transaction()
        except BaseException:
            self._give_up()
            raise

    def _may_fail_open(self) -> bool:
        return False

    def _fail_open(self, error: StoreUnavailable) -> None:
        self.failed_open = True
        announce(failed_open, self.key, using=self.database, mechanism=self.mechanism, error=error)

    def _open_transaction(self) -> None:
        if not self._has_transaction:
            return
        self._nesting = entered(connections[self.using], self)
        self._transaction = GuardedTransaction(self.using, on_commit=self._over)
        with translated(), self._transaction.opened():
            hold(self.using)

    # Leaving

    def _end(self, error: BaseException | None) -> bool:
        """End the work. Whether that is that: the work is done, or was refused for good."""
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
            self._before_commit(transaction)
            self._committing = True
            transaction.commit()
            return True
        else:
            transaction.roll_back()
        return not self.is_joint

    def _before_commit(self, transaction: GuardedTransaction) -> None:  # noqa: B027
        """The last moment to roll back and raise."""

    def _is_over_after(self, failure: BaseException) -> bool | None:
        """None: the commit was sent, and what became of it is not known."""
        if self._transaction and self._transaction.committed:
            return True
        was_told = isinstance(failure, OperationInProgress | DatabaseError)
        return None if self._committing and not was_told else False

    def _lost_sight(self, failure: BaseException) -> None:  # noqa: B027
        """The outcome is not known. May raise something else than what is about to be."""

    def _leave(self, error: BaseException | None = None) -> None:
        if self._transaction and self._transaction.is_open:
            self._transaction.roll_back(error)
        if self._nesting:
            left(self._nesting)
            self._nesting = None

    def _over(self) -> None:
        """The work is done, or was refused for good."""
        if self._within and self._keep_writes:
            on_commit(self._announcing(completed), using=self.using, robust=True)
        else:
            self._announce(completed)

    def _announcing(self, signal: Signal) -> Callable[[], None]:
        return partial(announce, signal, self.key, using=self.database, mechanism=self.mechanism)

    def _announce(self, signal: Signal) -> None:
        self._announcing(signal)()
