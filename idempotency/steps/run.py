"""One run of an operation under its lease: what of it is done, and how the next step is."""

from __future__ import annotations

import inspect
import json
import logging
from copy import deepcopy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.db import transaction

from idempotency import conf
from idempotency.database import DatabaseNow
from idempotency.exceptions import (
    BrokenCall,
    LeaseLost,
    OperationInProgress,
    OutcomeUnknown,
    StepsChanged,
    StoreUnavailable,
)
from idempotency.keys import digest
from idempotency.models import OperationRun
from idempotency.payloads import arguments_material
from idempotency.steps.journal import BEGUN, DONE, REFUSED, Entry, dumped, loaded
from idempotency.steps.step import NOT_DONE, STILL_UNKNOWN, DatabaseStep, Done, OutsideCall, Step
from idempotency.steps.values import json_of, plain, respelled, spelled, storable
from idempotency.transactions import (
    CONFLICT_INSIDE,
    GuardedTransaction,
    asked,
    is_within_transaction,
    nothing_kept,
    translated,
)

if TYPE_CHECKING:
    from idempotency.leases.lease import Lease
    from idempotency.steps.operation import Operation

T = TypeVar("T")
ATTEMPTS = 2
LONGEST_ERROR = 2000
logger = logging.getLogger("idempotency")


class Run:
    """``guard``: whose refusals those of this run are. ``identity``: of which downstream keys are made."""

    def __init__(
        self, guard: Any, lease: Lease, row: OperationRun, operation: Operation[Any, Any], identity: bytes
    ) -> None:
        self.guard, self.lease, self.row, self.operation = guard, lease, row, operation
        self.identity = identity
        self.entries = loaded(row.journal)
        self.current: Step[..., Any] | None = None
        self.broken: str | None = None
        """The call whose outcome this run does not know."""
        self.cause: Exception | None = None
        """What the call itself has raised."""
        self.failed: tuple[str, BaseException] | None = None
        """The step that left the point where it was, and by what."""
        self.refusal: Exception | None = None
        """The last one that is kept: what the operation is left by, perhaps."""
        self._arguments = row.arguments
        self._next = 0
        # A commit may have failed without an answer.
        self._may_have_points = False

    @property
    def principal(self) -> tuple[str, str]:
        """On whose behalf: kind and identifier."""
        return self.row.principal_kind, self.row.principal_id

    @property
    def has_points(self) -> bool:
        return bool(self.entries) or self._may_have_points

    @property
    def is_broken(self) -> bool:
        return self.broken is not None

    def require_ended(self) -> None:
        """Raises StepsChanged where this run came to fewer points than an earlier one: an answer to it would
        leave out what was done, or a call of which nobody knows."""
        if self._next < len(self.entries):
            raise self._changed(f"it ended before it came to {self.entries[self._next].step}")

    @property
    def downstream_key(self) -> str:
        """The same for the same call of the same operation, whoever makes it again."""
        assert self.current
        name = self.current.name
        earlier = sum(entry.step == name for entry in self.entries[: self._next])
        return str(UUID(bytes=digest(b"idem-downstream", (self.identity.hex(), name, str(earlier)))))

    def begin(self, arguments: dict[str, Any]) -> None:
        """From the first line of the operation, whatever of it is done."""
        text = json_of(arguments, f"The arguments of {self.operation.name}")
        if self._arguments and json.loads(self._arguments) != arguments:
            raise self._changed("it was begun with other arguments")
        self._arguments = text
        self._next = 0

    def end(self, failure: BaseException | None, pause: timedelta | None = None) -> None:
        """Let whoever comes next go on from here, and say why it was broken off. ``pause``: not before is it
        gone on with without its caller."""
        error = f"{type(failure).__name__}: {failure}"[:LONGEST_ERROR] if failure else ""
        if self.lease.end():
            self._runs.update(last_error=storable(error), resume_at=DatabaseNow() + pause if pause else None)

    # Steps

    def write(self, step: DatabaseStep[..., Any], bound: inspect.BoundArguments) -> Any:
        asked_for, entry = self._recall(step, bound)
        if entry:
            return self._told(step, entry)
        work = GuardedTransaction(self.lease.using, on_commit=lambda: None)
        with translated(), work.opened():
            pass
        try:
            result = self._within(step, bound)
            self._require_whole(work)
            entry = Entry(step.name, asked_for, DONE, plain(result, step.name))
            with translated():
                self._note(entry)
        except step.refusals as refusal:
            work.roll_back(refusal)
            self._keep(Entry(step.name, asked_for, REFUSED, spelled(refusal)))
            self.refusal = refusal
            raise
        except BaseException as error:
            self.failed = step.name, error
            work.roll_back(error)
            if (conflict := work.conflict_behind(error)) and not isinstance(error, OperationInProgress):
                raise OperationInProgress(CONFLICT_INSIDE) from conflict
            raise
        try:
            work.commit()
        except BaseException as error:
            if work.committed:  # and it was a hook that failed
                self._reach(entry)
            else:
                self.failed = step.name, error
            raise
        self._reach(entry)
        return result

    def call(self, step: OutsideCall[..., Any], bound: inspect.BoundArguments) -> Any:
        asked_for, entry = self._recall(step, bound)
        if entry and entry.state != BEGUN:
            return self._told(step, entry)
        begun = Entry(step.name, asked_for, BEGUN)
        if entry is None:
            self._keep(begun, reached=False)
        elif not step.is_repeatable:
            found = self._reconciled(step, bound)
            if isinstance(found, Done):
                return self._concluded(begun, found.result)
        try:
            result = self._within(step, bound)
        except step.refusals as refusal:
            self._keep(Entry(step.name, asked_for, REFUSED, spelled(refusal)))
            self.refusal = refusal
            raise
        except BaseException as error:
            self.broken = step.name
            self.cause = error if isinstance(error, Exception) else None
            if step.meaning == "unknown":
                raise self._lost_sight() from error
            raise
        return self._concluded(begun, result)

    def _recall(self, step: Step[..., Any], bound: inspect.BoundArguments) -> tuple[str, Entry | None]:
        """What the step was asked for, and what is known of it from an earlier run."""
        if self.operation.steps.get(step.name) is not step:
            raise TypeError(f"{step.name} is not among the steps of {self.operation.name}: add it there.")
        if self.current:
            raise RuntimeError(
                f"{step.name} is called within the step {self.current.name}: steps do not nest."
            )
        if self.broken:
            raise BrokenCall(self.broken)
        if self.failed:
            failed, error = self.failed
            # The next run would find the step to succeed, perhaps, and go another way than this one.
            raise RuntimeError(
                f"{step.name} is called after {failed} has failed: to go on after {type(error).__name__}, "
                "name it among the refusals there."
            ) from error
        if self.lease.is_lost:
            raise LeaseLost
        if is_within_transaction(self.lease.using):
            raise RuntimeError(f"{step.name} commits on its own: call it outside of transaction.atomic().")
        asked_for = arguments_material(step.function, bound).hex()[:32]
        if self._next == len(self.entries):
            return asked_for, None
        entry = self.entries[self._next]
        if (entry.step, entry.asked) != (step.name, asked_for):
            other = "with other arguments" if entry.step == step.name else f"where {entry.step} was called"
            raise self._changed(f"{step.name} is called {other}")
        return asked_for, entry

    def _told(self, step: Step[..., Any], entry: Entry) -> Any:
        self._next += 1
        if entry.state == REFUSED:
            self.refusal = respelled(step, entry.value)
            raise self.refusal
        # Not what the journal itself has: the caller may change it.
        return deepcopy(entry.value)

    def _within(self, step: Step[..., Any], bound: inspect.BoundArguments) -> Any:
        self.current = step
        try:
            return step.function(*bound.args, **bound.kwargs)
        finally:
            self.current = None

    def _reconciled(self, step: OutsideCall[..., Any], bound: inspect.BoundArguments) -> Any:
        """What became of a call that was broken off: Done or NOT_DONE. Raises OutcomeUnknown."""
        if step.reconcile is None:
            raise self._lost_sight()
        self.current = step
        try:
            found = step.reconcile(*bound.args, **bound.kwargs)
        except Exception:
            logger.exception("cannot be asked for, and is asked for again: %s of %s", step.name, self.lease)
            found = STILL_UNKNOWN
        finally:
            self.current = None
        if found == STILL_UNKNOWN:
            self.broken = step.name
            raise self._lost_sight()
        if found != NOT_DONE and not isinstance(found, Done):
            raise TypeError(
                f"{step.name}: reconcile returns Done(…), NOT_DONE or STILL_UNKNOWN, not {found!r}."
            )
        return found

    def _lost_sight(self) -> OutcomeUnknown:
        self.broken = self.broken or self.entries[-1].step
        step = self.operation.steps[self.broken]
        can_be_asked = isinstance(step, OutsideCall) and step.reconcile
        with asked(self.lease.using):
            self.lease.lose_sight(conf.reconcile_after() if can_be_asked else timedelta(0))
        return OutcomeUnknown(guard=self.guard)

    def _require_whole(self, work: GuardedTransaction) -> None:
        """Whether all that the step has written is still there to be committed."""
        if work.conflict:
            raise work.conflict
        if work.connection.closed_in_transaction:
            raise StoreUnavailable
        if work.is_broken:
            raise nothing_kept() from work.swallowed_error

    # The journal

    def _concluded(self, begun: Entry, result: Any) -> Any:
        try:
            value = plain(result, begun.step)
            self._keep(Entry(begun.step, begun.asked, DONE, value))
        except BaseException:
            self.broken = begun.step
            raise
        return result

    def _keep(self, entry: Entry, *, reached: bool = True) -> None:
        """Commit a point by itself. Asked again when the connection broke: it says the same twice."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with asked(self.lease.using), transaction.atomic(using=self.lease.using):
                    self._note(entry)
                break
            except BaseException as error:
                if isinstance(error, StoreUnavailable) and attempt < ATTEMPTS:
                    continue
                self.failed = entry.step, error
                raise
        self._reach(entry, reached=reached)

    def _note(self, entry: Entry) -> None:
        if not self.lease.extend():
            raise LeaseLost
        self._may_have_points = True
        journal = dumped([*self.entries[: self._next], entry])
        self._runs.update(arguments=self._arguments, journal=journal)

    def _reach(self, entry: Entry, *, reached: bool = True) -> None:
        self.entries[self._next :] = [entry]
        self._next += reached

    @property
    def _runs(self) -> Any:
        return OperationRun.objects.using(self.lease.using).filter(record_id=self.lease.pk)

    def _changed(self, why: str) -> StepsChanged:
        return StepsChanged(self.operation.name, why, guard=self.guard)
