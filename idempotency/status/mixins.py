from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Self
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import IntegrityError, connections, router, transaction

from idempotency.columns import OwnedColumnsMixin
from idempotency.database import has_fixed_snapshot
from idempotency.exceptions import OperationInProgress
from idempotency.keys import Scope
from idempotency.models import StatusTransition
from idempotency.models.subjects import AppendOnlyQuerySet
from idempotency.status.change import Transition
from idempotency.status.decision import change_status
from idempotency.status.events import event_for, lookup_value
from idempotency.status.graph import Status, TransitionGraph
from idempotency.status.guard import TransitionGuard
from idempotency.status.ordering import BaseOrdering, Outcome, Reject
from idempotency.transactions import CONFLICT_INSIDE, translated


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
        event = event_for(type(self), to, event_id, sequence, by)
        return change_status(self, event, self._status_database(), nowait=nowait).outcome

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
        one: locking a row that does not exist would lock out its neighbours, or nobody.

        Raises DoesNotExist; IntegrityError (the defaults break a constraint); OperationInProgress (somebody
        else inserts it, and the transaction around this one cannot see it yet); or StoreUnavailable.
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
            except IntegrityError as error:
                again = rows.filter(**where)
                if connections[using].vendor == "mysql" and connections[using].in_atomic_block:
                    # A plain read may show the time before somebody else's row came in between.
                    again = again.select_for_update()
                with translated():
                    found = again.first()
                if found is None and has_fixed_snapshot(connections[using]):
                    raise OperationInProgress(CONFLICT_INSIDE) from error
                if found is None:
                    raise
        if found is None:
            raise cls.DoesNotExist(f"There is no {cls.__name__} with {cls.status_lookup} {value!r}.")
        return found

    @property
    def current_status(self) -> Status:
        """The status as this instance knows it, whatever the field is called."""
        return getattr(self, self.status_field)

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


@cache
def graph_of(model: type[StatusMixin]) -> TransitionGraph:
    return TransitionGraph(model.status_transitions)
