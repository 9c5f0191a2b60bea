"""The transaction around a guarded operation, and what happens in it behind the guard's back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections, transaction

from idempotency.database import (
    FAILED_TRANSACTION,
    NO_SUCH_CONSTRAINT,
    is_conflict,
    is_lost_tie,
    is_outage,
    is_refused_wait,
    sqlstate,
)
from idempotency.exceptions import (
    WITHOUT_SETTING,
    AlreadyCompleted,
    IdempotencyError,
    OperationInProgress,
    StoreUnavailable,
)

CONFLICT_INSIDE = "The operation lost a conflict and was rolled back: retry with the same key."
LEFT_OPEN = "The operation was rolled back, since it has entered a transaction.atomic() and not left it."
ATTEMPTS, PAUSE_SECONDS = 8, 0.005
T = TypeVar("T")


class GuardedTransaction:
    """A transaction of the guard's own, or a savepoint where a transaction is open already.

    ``conflict`` is the first deadlock, serialization failure or lock timeout of a statement inside,
    also when the handler swallowed it: what it rolled back must not be half committed.
    """

    def __init__(self, using: str, on_commit: Callable[[], object]) -> None:
        self.using = using
        self.connection: Any = connections[using]
        self.conflict: DatabaseError | None = None
        self.committed = False
        self._on_commit = on_commit
        self._atomic: Any = None

    @property
    def is_open(self) -> bool:
        return self._atomic is not None

    @property
    def is_savepoint(self) -> bool:
        return bool(self.connection.savepoint_ids)

    @property
    def is_broken(self) -> bool:
        """Whether nothing of it can be kept any more: Django knows, or PostgreSQL itself does (of a
        statement past the ORM, whose error was swallowed; COMMIT would then quietly roll back)."""
        if self.connection.needs_rollback:
            return True
        if self.connection.vendor != "postgresql":
            return False
        # psycopg 2 and 3 alike; 3 is INERROR of libpq.
        return bool(self.connection.connection.info.transaction_status == 3)

    @property
    def swallowed_error(self) -> BaseException | None:
        """The database error that cost the handler its transaction and that it did not pass on."""
        error: BaseException | None = self.connection.rollback_exc
        return error if self.connection.needs_rollback else None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open it, and leave it open unless the block raises."""
        atomic = transaction.atomic(using=self.using)
        atomic.__enter__()
        try:
            yield
        except BaseException as error:
            atomic.__exit__(type(error), error, error.__traceback__)
            raise
        # First in line: a wrapper of the handler's that is not removed in turn pops another's.
        self.connection.execute_wrappers.insert(0, self._watch)
        self._atomic = atomic
        # Django never clears it: an error of an earlier transaction is none of this one's.
        self.connection.rollback_exc = None
        if not self.is_savepoint:
            # The first hook of the transaction: what fails after it failed after the commit.
            transaction.on_commit(self._note_commit, using=self.using)

    def conflict_behind(self, error: BaseException | None) -> BaseException | None:
        """The conflict that the caller has to hear of, in whatever way the handler has left: by that very
        error, by another one, or as if nothing had been. What ends the process goes its way."""
        if is_conflict(error):
            return error
        return self.conflict if error is None or isinstance(error, Exception) else None

    def roll_back(self, error: BaseException | None = None) -> None:
        error = error or _RolledBack()
        self._end(type(error), error, error.__traceback__)

    def commit(self) -> None:
        """Raises OperationInProgress or StoreUnavailable when it failed; a hook's error as it is."""
        if self._left_open:
            # Leaving would end that one instead, and commit nothing.
            self.roll_back()
            raise transaction.TransactionManagementError(LEFT_OPEN)
        nested = self.is_savepoint
        try:
            self._end(None, None, None)
        except (DatabaseError, InterfaceError) as error:
            if self.committed:
                raise
            with translated():
                raise error
        if nested:
            # It stands when the transaction around it has committed; until then so far, so good.
            self.committed = True
            after_commit(self._on_commit, using=self.using)

    def _end(self, *exc_info: Any) -> None:
        atomic, self._atomic = self._atomic, None
        if atomic is not None:
            with suppress(ValueError):
                self.connection.execute_wrappers.remove(self._watch)
            for block in self._blocks_within(atomic):
                block.__exit__(_RolledBack, _RolledBack(), None)
            atomic.__exit__(*exc_info)

    @property
    def _left_open(self) -> bool:
        return self._atomic is not None and bool(self._blocks_within(self._atomic))

    def _blocks_within(self, atomic: Any) -> list[Any]:
        """Blocks that the handler has entered and not left, the last one first."""
        blocks = self.connection.atomic_blocks
        return blocks[: blocks.index(atomic) : -1] if atomic in blocks else []

    def _note_commit(self) -> None:
        self.committed = True
        self._on_commit()

    def _watch(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        try:
            return execute(sql, params, many, context)
        except DatabaseError as error:
            if is_conflict(error) and not is_refused_wait(error, sql):
                self.conflict = error
            raise


def after_commit(hook: Callable[[], object], *, using: str) -> None:
    """Where the project commits by hand (autocommit is off), Django has no such hooks: then it is now."""
    if connections[using].in_atomic_block or connections[using].get_autocommit():
        transaction.on_commit(hook, using=using, robust=True)
    else:
        hook()


def repeated(run: Callable[[], T], *, using: str, may_repeat: Callable[[], bool] = lambda: True) -> T:
    """What ``run`` returns; it is run again when a deadlock or a serialization failure has undone it.

    Within a transaction that is open already nothing is repeated: what lies before it is undone as well.
    """
    nested = connections[using].in_atomic_block or not connections[using].get_autocommit()
    for attempt in range(1, ATTEMPTS):
        try:
            return run()
        except (DatabaseError, OperationInProgress) as error:
            undone = is_lost_tie(error) or is_lost_tie(error.__cause__)
            if nested or not undone or not may_repeat():
                raise
        time.sleep(random.uniform(0, attempt * PAUSE_SECONDS))
    return run()


@contextmanager
def translated() -> Iterator[None]:
    """The store's errors as what they are to the caller: a conflict, an outage, or a defect."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        if is_conflict(error):
            raise OperationInProgress(CONFLICT_INSIDE) from error
        if is_outage(error):
            raise StoreUnavailable from error
        if sqlstate(error) == NO_SUCH_CONSTRAINT:
            raise ImproperlyConfigured(WITHOUT_SETTING) from error
        raise


@contextmanager
def asked(using: str) -> Iterator[None]:
    """``translated()``, for a store that is asked outside of any transaction: a connection that was lost
    is made anew the next time."""
    try:
        with translated():
            yield
    except StoreUnavailable:
        if not connections[using].in_atomic_block:
            connections[using].close_if_unusable_or_obsolete()
        raise
    except (IdempotencyError, AlreadyCompleted, DatabaseError):
        raise
    except BaseException:
        # Such as a time limit's, which a signal's handler raises: the statement may go on in the server.
        if not connections[using].in_atomic_block:
            with suppress(Exception):
                stop(connections[using])
        raise


def stop(connection: Any) -> None:
    if connection.vendor == "postgresql" and connection.connection is not None:
        connection.connection.cancel()
    connection.close()


def is_within_transaction(using: str) -> bool:
    """Whether what is written there is not committed on the spot. A TestCase's own transaction does not
    count: nobody else looks on."""
    connection = connections[using]
    if not connection.get_autocommit() and not connection.in_atomic_block:
        return True
    return any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)


def nothing_kept() -> transaction.TransactionManagementError:
    """What a success is told whose writes were rolled back behind its back."""
    return transaction.TransactionManagementError(
        "The operation reported success although its transaction was marked for rollback, so nothing "
        "of it was kept. Put what may fail, and is caught, into its own transaction.atomic()."
    )


def is_failed_transaction(error: BaseException) -> bool:
    """Whether PostgreSQL had given the transaction up at an earlier error."""
    return sqlstate(error) == FAILED_TRANSACTION


class _RolledBack(Exception):
    """Makes an atomic block roll back; never leaves it."""
