from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import cache, partial
from typing import Any, ClassVar, Self
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import IntegrityError, router, transaction

from idempotency.columns import OwnedColumnsMixin
from idempotency.exceptions import NotApplied
from idempotency.keys import Scope, valid_id
from idempotency.models import StatusTransition
from idempotency.models.subjects import AppendOnlyQuerySet, event_digest
from idempotency.signals import announce, completed
from idempotency.status.change import Transition
from idempotency.status.events import Event, event_for, lookup_value
from idempotency.status.graph import Status, TransitionGraph
from idempotency.status.guard import TransitionGuard, scoped_key
from idempotency.status.ordering import BaseOrdering, Outcome, Park, Reject
from idempotency.status.row import StatusRow
from idempotency.status.statement import ChangeStatement
from idempotency.transactions import repeated, translated


class StatusMixin(OwnedColumnsMixin):
    """A model whose status changes only as declared, once per event, in whatever order events come::

        class Order(StatusMixin, models.Model):
            status = models.CharField(max_length=20, default="created")
            status_transitions = {"created": ["paid", "cancelled"], "paid": ["shipped"]}
            status_ordering = Park()

        order.transition_to("paid", event_id=message.id)

    Every change is written to the log (StatusTransition) in its own transaction. ``save()`` leaves the
    status of an existing row alone.
    """

    #: Name of the field: texts or integers, with choices or without.
    status_field: ClassVar[str] = "status"
    #: Which status may become which. What is not a key, or has no targets, is terminal.
    status_transitions: ClassVar[Mapping[Any, Iterable[Any]]] = {}
    #: What becomes of events that the transitions do not allow: Reject, ByRank, BySequence or Park.
    status_ordering: ClassVar[BaseOrdering] = Reject()
    #: The unique field by which events name an object; see for_event().
    status_lookup: ClassVar[str] = "pk"

    class Meta:
        abstract = True

    def transition_to(
        self,
        to: Status,
        *,
        event_id: str | int | UUID | None = None,
        sequence: int | None = None,
        by: Scope | None = None,
        nowait: bool = False,
    ) -> Outcome:
        """Change the status in one transaction: lock the row, check, change, log. Says what happened:

        APPLIED; DUPLICATE (the event was applied before; without an event, the object is in that status
        already); STALE (older than what is known); PARKED (too early, and kept for later).

        ``event_id``: the sender's id of the message, 1 to 255 printable ASCII characters. ``sequence``: the
        sender's counter, for BySequence. ``by``: who, for the log: a user or other instance, a ``(kind,
        identifier)`` pair or a text. ``nowait``: do not wait for whoever works on the row.

        Raises TransitionRejected, FingerprintMismatch (the event stood for another change), InvalidKey,
        UnknownStatus, InvalidSequence, OperationInProgress (locked, or a conflict in the database
        that a transaction around this one does not let repeat), StoreUnavailable, or DoesNotExist.
        """
        event, using = event_for(type(self), to, event_id, sequence, by), self._status_database()
        if not nowait and not self._is_read_for_a_change() and self._change_unread(event, using):
            return Outcome.APPLIED
        guard = TransitionGuard(self, event, using, nowait=nowait, whole=False)

        def change() -> Outcome:
            with ExitStack() as leaving:
                try:
                    leaving.enter_context(guard)
                except NotApplied as refusal:
                    return refusal.outcome
            return Outcome.APPLIED

        return repeated(change, using=using, may_repeat=lambda: guard.may_be_repeated)

    async def atransition_to(self, to: Status, **options: Any) -> Outcome:
        """The same for async code."""
        return await sync_to_async(self.transition_to)(to, **options)

    def transition(
        self,
        to: Status,
        *,
        event_id: str | int | UUID | None = None,
        sequence: int | None = None,
        by: Scope | None = None,
        nowait: bool = False,
    ) -> TransitionGuard:
        """``with order.transition("paid", event_id=…): …`` locks the row, reads the object again, lets you
        look and do more, and then changes the status; all in one transaction. Arguments as those of
        transition_to(); see TransitionGuard for what entering raises."""
        event = event_for(type(self), to, event_id, sequence, by)
        return TransitionGuard(self, event, self._status_database(), nowait=nowait)

    def on_transition(self, transition: Transition) -> None:
        """Called in the transaction, once for each change that is applied: here belongs what it causes in
        the database. For a parked event that is when it is applied, not when it came.

        The status is the new one already; other fields are as the instance had them. An error rolls the
        change back. What cannot be rolled back belongs into ``transaction.on_commit()``.
        """

    @classmethod
    def for_event(
        cls, value: Any, *, defaults: Mapping[str, Any] | None = None, using: str | None = None
    ) -> Self:
        """The object that an event names, by the unique field ``status_lookup``.

        With ``defaults``, one that is not there is inserted first, with these values beside the looked up
        one: locking a row that does not exist would lock out its neighbours, or nobody. Raises DoesNotExist.
        """
        using = using or router.db_for_write(cls)
        rows, where = cls._base_manager.using(using), {cls.status_lookup: lookup_value(cls, value)}
        found = rows.filter(**where).first()
        if found is None and defaults is not None:
            try:
                with translated(), transaction.atomic(using=using):
                    created = cls(**{**defaults, **where})
                    created.save(using=using, force_insert=True)
                    return created
            except IntegrityError:
                # InnoDB shows what came in between to a locking read alone, in a transaction begun before.
                with transaction.atomic(using=using):
                    found = rows.filter(**where).select_for_update().first()
                if found is None:
                    raise
        if found is None:
            raise cls.DoesNotExist(f"There is no {cls.__name__} with {cls.status_lookup} {value!r}.")
        return found

    @property
    def current_status(self) -> Status:
        """The status as this instance knows it, whatever the field is called."""
        return getattr(self, self.status_field)

    def logged_transition(self, event_id: str | int | UUID | None = None) -> StatusTransition | None:
        """What the log has of an event, or of the latest change; None when it has nothing."""
        log = self.status_log()
        if event_id is not None:
            log = log.filter(event_digest=event_digest(valid_id(event_id, "event id")))
        entry: StatusTransition | None = log.last()
        return entry

    def status_log(self) -> AppendOnlyQuerySet:
        """The object's transitions (StatusTransition), oldest first."""
        log: AppendOnlyQuerySet = StatusTransition.objects.using(self._status_database()).about(self)
        return log.order_by("pk")

    @classmethod
    def status_graph(cls) -> TransitionGraph:
        return graph_of(cls)

    @classmethod
    def initial_status(cls) -> Status:
        """The field's default, None where it has none."""
        field: Any = cls._meta.get_field(cls.status_field)
        return field.get_default() if field.has_default() else None

    @classmethod
    def has_transition_hook(cls) -> bool:
        return cls.on_transition is not StatusMixin.on_transition

    @classmethod
    def owned_columns(cls) -> dict[str, str]:
        owned = dict.fromkeys(filter(None, (cls.status_field, cls.status_ordering.field)), "transition_to()")
        return {**super().owned_columns(), **owned}

    def _status_database(self) -> str:
        return router.db_for_write(type(self), instance=self)

    @classmethod
    def _is_read_for_a_change(cls) -> bool:
        """Whether a change has consequences that want more than the row's own statement."""
        return cls.has_transition_hook() or isinstance(cls.status_ordering, Park)

    def _change_unread(self, event: Event, using: str) -> bool:
        """Try the one statement. When it does not apply, another look has to say why."""
        row = StatusRow(self, using)
        statement = ChangeStatement(row, event)
        if not statement.is_possible:
            return False
        with translated():
            applied = repeated(statement.execute, using=using)
        if applied is None:
            return False
        row.tell_written(event.to, event.sequence)
        transition = Transition(applied.before, event.to, event.event_id, event.sequence, event.by)
        done = partial(announce, completed, scoped_key(self, event), using=using, mechanism="status")
        transaction.on_commit(partial(done, transition=transition), using=using, robust=True)
        return True


@cache
def graph_of(model: type[StatusMixin]) -> TransitionGraph:
    return TransitionGraph(model.status_transitions)
