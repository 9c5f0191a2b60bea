from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from idempotency.exceptions import NotApplied, TransitionRejected, WrittenElsewhere
from idempotency.status import parking
from idempotency.status.events import Event
from idempotency.status.graph import Status
from idempotency.status.log import expect_same, log, logged
from idempotency.status.ordering import Outcome, Park
from idempotency.status.row import StatusRow
from idempotency.status.statement import ChangeStatement

if TYPE_CHECKING:
    from idempotency.status.mixins import StatusMixin


class Transition(NamedTuple):
    """What has happened to an object: what ``on_transition()`` is told, and receivers of ``completed``."""

    #: None for a receiver of ``completed`` where nothing was read, and several were possible.
    from_status: Status
    to_status: Status
    event_id: str | None
    sequence: int | None
    by: str


class StatusChange:
    """One change of one object's status, in a transaction that somebody else opens and ends.

    ``claim()`` locks the row and decides; ``finish()`` changes it. In between nobody else can.
    """

    def __init__(self, instance: StatusMixin, event: Event, using: str) -> None:
        self.instance, self.event = instance, event
        self.row = StatusRow(instance, using)
        self.graph = type(instance).status_graph()
        self.ordering = type(instance).status_ordering
        self.before: Status = None
        self.known: int | None = None
        self.applied: list[Transition] = []
        self.is_written = False
        #: Whether code of the model's own has begun to run, which is never run a second time.
        self.has_told = False
        self.is_telling = False

    def claim(self, *, nowait: bool = False, whole: bool = False) -> Outcome:
        """APPLIED when the change may be finished, PARKED when the event was kept for later; both want a
        commit. Raises NotApplied, TransitionRejected, FingerprintMismatch, OperationInProgress."""
        if not nowait and not whole and self._write_at_once():
            return Outcome.APPLIED
        self.before, self.known = self.row.lock(nowait=nowait, whole=whole)
        if self._is_open():
            # The log's unique constraint decides, and sees past every snapshot.
            if log(self.row, self.event, self.before):
                return Outcome.APPLIED
            raise NotApplied(self.instance, Outcome.DUPLICATE, logged(self.row, self.event))
        return self._settle()

    def _write_at_once(self) -> bool:
        """Log and change by a statement that applies to the expected case alone."""
        statement = ChangeStatement(self.row, self.event)
        if not statement.is_possible or not statement.tells_before:
            return False
        if (applied := statement.execute()) is None:
            return False
        self.before, self.known = applied.before, self.row.known_sequence
        self.is_written = True
        self.row.tell_written(self.event.to, self.event.sequence)
        return True

    def _is_open(self) -> bool:
        is_allowed = self.graph.allows(self.before, self.event.to)
        return is_allowed and not (self._is_there or self._is_overtaken or self._is_ahead)

    @property
    def _is_there(self) -> bool:
        """Whether it is a duplicate by its status alone, having no event id to tell by."""
        return self.event.event_id is None and self.event.to == self.before

    @property
    def _is_overtaken(self) -> bool:
        return is_overtaken(self.known, self.event)

    @property
    def _is_ahead(self) -> bool:
        return self.ordering.is_ahead(self.known, self.event)

    def _settle(self) -> Outcome:
        """Say what becomes of a change that is not open (any more, or yet)."""
        entry = logged(self.row, self.event) if self._is_there or self.event.event_id is not None else None
        if entry or self._is_there:
            raise NotApplied(self.instance, Outcome.DUPLICATE, entry)
        if self._is_overtaken:
            raise NotApplied(self.instance, Outcome.STALE)
        outcome = self.ordering.judge(self.graph, self.before, self.event)
        if self._is_ahead and self.event.event_id is not None and not self.graph.is_terminal(self.before):
            outcome = Outcome.PARKED
        if outcome is None:
            raise TransitionRejected(self.before, self.event.to)
        if outcome is Outcome.PARKED and isinstance(self.ordering, Park):
            parking.park(self.row, self.before, self.event, self.ordering.report_after)
            return outcome
        raise NotApplied(self.instance, outcome)

    def finish(self, check: Callable[[], None]) -> None:
        """Change the status, tell the model, and do the same with every parked event that is next.

        ``check`` raises when what the model did has cost it the transaction."""
        if isinstance(self.ordering, Park):
            # Itself, when it waited for a change that went around the mechanism.
            own = parking.Waiting(self.row).take(lambda event: event.event_id == self.event.event_id)
            if own:
                expect_same(str(own.to), self.event)
        self._apply(self.event, self.before)
        check()
        if isinstance(self.ordering, Park):
            self._apply_parked(check)

    def _apply_parked(self, check: Callable[[], None]) -> None:
        """Every parked event is treated as if it came now; what would be rejected stays, to be reported."""
        waiting = parking.Waiting(self.row)
        while event := waiting.take(self._is_next):
            if log(self.row, event, self.instance.current_status):
                self._apply(event, self.instance.current_status)
                check()
        while waiting.take(self._is_stale):
            pass

    def _is_next(self, event: Event) -> bool:
        known, status = self.row.known_sequence, self.instance.current_status
        is_in_turn = not is_overtaken(known, event) and not self.ordering.is_ahead(known, event)
        return is_in_turn and self.graph.allows(status, event.to)

    def _is_stale(self, event: Event) -> bool:
        known, status = self.row.known_sequence, self.instance.current_status
        if self.ordering.is_ahead(known, event) and not self.graph.is_terminal(status):
            return False
        outcome = self.ordering.judge(self.graph, status, event)
        return is_overtaken(known, event) or outcome is Outcome.STALE

    def _apply(self, event: Event, before: Status) -> None:
        if self.is_written:
            self.is_written = False
        elif not self.row.write(before, event.to, event.sequence):
            raise WrittenElsewhere(
                f"{self.instance!r} was no longer {before!s} when it was to become {event.to!s}: something "
                "inside its own transition has changed or deleted it. Do that before or after."
            )
        transition = Transition(before, event.to, event.event_id, event.sequence, event.by)
        self.applied.append(transition)
        self.has_told = type(self.instance).has_transition_hook()
        self.is_telling = True
        self.instance.on_transition(transition)
        self.is_telling = False

    def undone(self) -> None:
        """Tell the instance that everything was rolled back."""
        values = {self.row.field.attname: self.before}
        if self.row.sequence_field:
            values[self.row.sequence_field] = self.known
        self.row.tell_instance(values)


def is_overtaken(known: int | None, event: Event) -> bool:
    return known is not None and event.sequence is not None and event.sequence <= known
