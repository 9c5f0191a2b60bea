"""What becomes of a change that the graph does not allow: too late, too early, or wrong?"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

from idempotency.status.events import Event
from idempotency.status.graph import Status, TransitionGraph, plain


class Outcome(TextChoices):
    """What became of a change of status that was not rejected."""

    APPLIED = "applied", _("applied")
    #: The event was applied before; without an event, the object is in that status already.
    DUPLICATE = "duplicate", _("done before")
    #: The event is older than what is known. Nothing changed.
    STALE = "stale", _("older than what is known")
    #: The event came too early. It is kept, and applied as soon as the status allows it.
    PARKED = "parked", _("too early, and kept")


class BaseOrdering:
    """Judges what the graph does not allow."""

    #: Name of the model's field that holds the highest sequence number known, where there is one.
    field: str | None = None
    #: Whether an event is applied only after the one whose number is one less.
    waits_for_predecessor = False

    def judge(self, graph: TransitionGraph, current: Status, event: Event) -> Outcome | None:
        """STALE, PARKED, or None, which rejects. Asked for nothing that was applied before."""
        raise NotImplementedError

    def is_ahead(self, known: int | None, event: Event) -> bool:
        """Whether an event with a lower number must come first, even if the graph allows this one."""
        return False

    def problems(self, graph: TransitionGraph) -> list[str]:
        """What is wrong with the declaration, for the system checks."""
        return []


class Reject(BaseOrdering):
    """Messages come in order, or are sent again until they do: whatever is not allowed is rejected."""

    def judge(self, graph: TransitionGraph, current: Status, event: Event) -> Outcome | None:
        return None


class ByRank(BaseOrdering):
    """``ByRank("created", "paid", ("shipped", "picked up"))``: lowest first, equal ones in a tuple.

    What ranks lower than the status is stale. The graph must allow every step up that is to happen,
    those that leave a status out too: what the left out one would have caused does not happen.
    """

    def __init__(self, *statuses: Status | tuple[Status, ...]) -> None:
        self.ranks = {
            plain(status): rank
            for rank, equals in enumerate(statuses)
            for status in (equals if isinstance(equals, tuple) else (equals,))
        }

    def judge(self, graph: TransitionGraph, current: Status, event: Event) -> Outcome | None:
        known, rank = self.ranks.get(current), self.ranks.get(event.to)
        is_lower = known is not None and rank is not None and rank < known
        return Outcome.STALE if is_lower or event.to == current else None

    def problems(self, graph: TransitionGraph) -> list[str]:
        found = [f"{status!s} has no rank" for status in graph.statuses if status not in self.ranks]
        return found + [
            f"{status!s} may become {target!s}, which ranks lower"
            for status, targets in graph.targets.items()
            for target in targets
            if self.ranks.get(target, 0) < self.ranks.get(status, 0)
        ]


class BySequence(BaseOrdering):
    """``BySequence("version")``: events carry a number that grows. What is not above the highest one
    applied so far, which the model's integer field of that name holds, is stale."""

    def __init__(self, field: str) -> None:
        self.field = field

    def judge(self, graph: TransitionGraph, current: Status, event: Event) -> Outcome | None:
        return Outcome.STALE if event.to == current else None


class Park(BaseOrdering):
    """An event that the status does not allow yet is kept, and applied in the transaction of the change
    that it waits for. One that the status has left behind is stale. What comes without an event id is a
    command, and no news: it is neither carried out later, by surprise, nor passed over.

    Where the graph has short cuts (paid → refunded beside paid → shipped → refunded) the status alone does
    not tell what is too early. ``Park(sequence="version")``: the sender numbers an object's events 1, 2,
    3 …, and each waits for the one before; the model's integer field of that name holds the last number.

    ``report_after``: an event that waits longer is reported (admin, ``manage.py parked_events``).
    """

    def __init__(self, report_after: timedelta = timedelta(days=1), *, sequence: str | None = None) -> None:
        self.report_after, self.field = report_after, sequence

    def is_ahead(self, known: int | None, event: Event) -> bool:
        if not self.waits_for_predecessor or event.sequence is None:
            return False
        return event.sequence > (known or 0) + 1

    @property
    def waits_for_predecessor(self) -> bool:  # type: ignore[override]
        return self.field is not None

    def judge(self, graph: TransitionGraph, current: Status, event: Event) -> Outcome | None:
        if event.event_id is None:
            return None
        if any(graph.leads_to(current, source) for source in graph.sources(event.to)):
            return Outcome.PARKED
        if event.to == current:
            # The next number must count, or those after it would wait for ever: the graph has to allow it.
            return None if self.waits_for_predecessor and event.sequence is not None else Outcome.STALE
        return Outcome.STALE if graph.leads_to(event.to, current) else None

    def problems(self, graph: TransitionGraph) -> list[str]:
        valid: Any = self.report_after
        if not isinstance(valid, timedelta) or not timedelta(0) < valid <= timedelta(days=36_500):
            return [f"report_after is {valid!r}, which is no timedelta above 0"]
        return []
