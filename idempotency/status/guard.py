from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from django.db import connections

from idempotency.database import is_conflict, is_lost_connection
from idempotency.exceptions import NotApplied, OperationInProgress, StoreUnavailable, TransitionRejected
from idempotency.keys import ScopedKey
from idempotency.nesting import adopted, disowned, entered, left
from idempotency.signals import abandoned, announce, claimed, completed, parked, refused, replayed
from idempotency.status.change import StatusChange
from idempotency.status.events import Event
from idempotency.status.graph import Status
from idempotency.status.ordering import Outcome
from idempotency.transactions import (
    CONFLICT_INSIDE,
    GuardedTransaction,
    nothing_kept,
    repeated,
    translated,
)

if TYPE_CHECKING:
    from idempotency.status.mixins import StatusMixin


class TransitionGuard:
    """``with order.transition("paid", event_id=…): …`` is entered at most once per event.

    Entering locks the object's row, reads the object again, and raises unless the change is to be made:
    NotApplied (a duplicate, stale, or parked), TransitionRejected, FingerprintMismatch (the event stood
    for another change), OperationInProgress, StoreUnavailable, or the model's DoesNotExist. Leaving
    changes the status, and commits it with everything that was done inside, or rolls all of it back:
    after ``abandon()``, an exception, or a conflict in the database.

    Within a transaction it uses a savepoint, and stands or falls with that transaction. What it guards
    is in the object's database.
    """

    def __init__(
        self, instance: StatusMixin, event: Event, using: str, *, nowait: bool = False, whole: bool = True
    ) -> None:
        self.instance, self.event, self.using = instance, event, using
        self.key = scoped_key(instance, event)
        self._claim_options = {"nowait": nowait, "whole": whole}
        self._change: StatusChange | None = None
        self._transaction: Any = None
        self._abandoned = False

    @property
    def from_status(self) -> Status:
        """What the object is when the guard is entered."""
        return self._change.before if self._change else None

    @property
    def to_status(self) -> Status:
        return self.event.to

    def abandon(self) -> None:
        """Roll back on leaving; the event may come again."""
        self._abandoned = True

    @property
    def is_open(self) -> bool:
        return bool(self._transaction and self._transaction.is_open)

    @property
    def may_be_repeated(self) -> bool:
        return not (self._change and self._change.has_told)

    def adopt(self) -> None:
        adopted(self)

    def disown(self) -> None:
        disowned(self)

    def __enter__(self) -> Self:
        # First: a guard that is open already must keep what it has to leave.
        self._nesting = entered(connections[self.using], self)
        self._change, self._abandoned = None, False
        self._transaction = GuardedTransaction(self.using, on_commit=self._announce_committed)
        try:
            with translated():
                outcome = repeated(self._claim, using=self.using)
            if outcome is Outcome.PARKED:
                self._transaction.commit()
                raise NotApplied(self.instance, outcome)
        except BaseException as error:
            self._transaction.roll_back(error)
            left(self._nesting)
            announce_refusal(error, self.key, self.using)
            raise
        announce(claimed, self.key, using=self.using, mechanism="status")
        return self

    def _claim(self) -> Outcome:
        change = StatusChange(self.instance, self.event, self.using)
        with self._transaction.opened():
            outcome = change.claim(**self._claim_options)
        self._change = change
        return outcome

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
                self._finish()
            if conflict:
                raise OperationInProgress(CONFLICT_INSIDE) from conflict
            refuse_inner(error)
        finally:
            left(self._nesting)
            if not self._transaction.committed:
                announce(abandoned, self.key, using=self.using, mechanism="status")

    def _finish(self) -> None:
        change = self._change
        assert change is not None
        try:
            self._refuse_broken()
            change.finish(check=self._refuse_broken)
        except BaseException as error:
            self._transaction.roll_back(error)
            change.undone()
            refuse_inner(error)
            if is_conflict(error) or is_lost_connection(error) or not change.is_telling:
                with translated():
                    raise
            raise
        try:
            self._transaction.commit()
        finally:
            if not self._transaction.committed:
                change.undone()

    def _refuse_broken(self) -> None:
        """Raise when the block, or the hook, has swallowed what cost it its writes."""
        if self._transaction.connection.closed_in_transaction:
            raise StoreUnavailable
        if conflict := self._transaction.conflict_behind(None):
            raise OperationInProgress(CONFLICT_INSIDE) from conflict
        if self._transaction.is_broken:
            raise nothing_kept() from self._transaction.swallowed_error

    def _announce_committed(self) -> None:
        # Before other hooks, which may go on to change the object.
        left(self._nesting)
        for transition in self._change.applied if self._change else ():
            announce(completed, self.key, using=self.using, mechanism="status", transition=transition)


def refuse_inner(error: BaseException | None) -> None:
    """That another change was not made says nothing of this one, which its exception has rolled back."""
    if isinstance(error, NotApplied):
        raise RuntimeError(
            f"Within a transition, the guard of another was not entered: {error} Catch NotApplied there, or "
            "use transition_to(), which returns the outcome."
        ) from error


def announce_refusal(error: BaseException, key: ScopedKey, using: str) -> None:
    if isinstance(error, NotApplied):
        signal = parked if error.outcome is Outcome.PARKED else replayed
        announce(signal, key, using=using, mechanism="status", record=error.entry)
    elif isinstance(error, TransitionRejected):
        announce(refused, key, using=using, mechanism="status", error=error)


def scoped_key(instance: StatusMixin, event: Event) -> ScopedKey:
    """What a change of status is called in signals and logs."""
    label = instance._meta.concrete_model._meta.label_lower  # type: ignore[union-attr]
    return ScopedKey((label, str(instance.pk)), f"{label} to {event.to!s}", event.event_id or "")
