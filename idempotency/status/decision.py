from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from idempotency.exceptions import NotApplied
from idempotency.models import StatusTransition
from idempotency.signals import announce, completed
from idempotency.status.change import Transition
from idempotency.status.events import Event
from idempotency.status.guard import TransitionGuard, scoped_key
from idempotency.status.ordering import Outcome, Park
from idempotency.status.row import StatusRow
from idempotency.status.statement import ChangeStatement
from idempotency.transactions import after_commit, repeated, translated

if TYPE_CHECKING:
    from idempotency.status.mixins import StatusMixin


class Decision(NamedTuple):
    """``entry``: a duplicate's in the log, as it was found under the lock."""

    outcome: Outcome
    entry: StatusTransition | None = None


def change_status(instance: StatusMixin, event: Event, using: str, *, nowait: bool = False) -> Decision:
    """What transition_to() does; see there."""
    has_consequences = instance.has_transition_hook() or isinstance(instance.status_ordering, Park)
    if not nowait and not has_consequences and change_unread(instance, event, using):
        return Decision(Outcome.APPLIED)
    guard = TransitionGuard(instance, event, using, nowait=nowait, whole=False)

    def change() -> Decision:
        with ExitStack() as leaving:
            try:
                leaving.enter_context(guard)
            except NotApplied as refusal:
                return Decision(refusal.outcome, refusal.entry)
        return Decision(Outcome.APPLIED)

    return repeated(change, using=using, may_repeat=lambda: guard.may_be_repeated)


def change_unread(instance: StatusMixin, event: Event, using: str) -> bool:
    """Try the one statement. When it does not apply, another look has to say why."""
    row = StatusRow(instance, using)
    statement = ChangeStatement(row, event)
    if not statement.is_possible:
        return False
    with translated():
        applied = repeated(statement.execute, using=using)
    if applied is None:
        return False
    row.tell_written(event.to, event.sequence)
    transition = Transition(applied.before, event.to, event.event_id, event.sequence, event.by)
    done = partial(announce, completed, scoped_key(instance, event), using=using, mechanism="status")
    after_commit(partial(done, transition=transition), using=using)
    return True
