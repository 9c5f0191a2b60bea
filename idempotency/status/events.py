"""Changes that are asked for, checked before anything is locked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError

from idempotency.exceptions import InvalidSequence, UnknownStatus
from idempotency.keys import Scope, named, valid_id
from idempotency.models import StatusTransition
from idempotency.models.subjects import column_of
from idempotency.status.graph import Status, plain

if TYPE_CHECKING:
    from idempotency.status.mixins import StatusMixin


@dataclass(frozen=True)
class Event:
    """A change that is asked for. ``event_id`` is the sender's: the same in every copy of the message.

    ``sequence`` is the sender's counter, or its version of the object. ``by`` is for the log.
    """

    to: Status
    event_id: str | None = None
    sequence: int | None = None
    by: str = ""


def event_for(
    model: type[StatusMixin], to: Status, event_id: Any, sequence: int | None, by: Scope | None
) -> Event:
    """Raises UnknownStatus, InvalidKey or InvalidSequence."""
    known_as = None if event_id is None else valid_id(event_id, "event id")
    if sequence is not None:
        check_sequence(model, sequence)
    return Event(valid_status(model, to), known_as, sequence, named(by))


def valid_status(model: type[StatusMixin], to: Any) -> Status:
    statuses = model.status_graph().statuses
    try:
        status = column_of(model, model.status_field).to_python(plain(to))
    except ValidationError:
        status = None
    if status is None or status not in statuses:
        known = ", ".join(str(each) for each in statuses)
        raise UnknownStatus(f"{to!r} is no status of {model.__name__}: its transitions name {known}.")
    return status


def check_sequence(model: type[StatusMixin], sequence: Any) -> None:
    counters = [column_of(StatusTransition, "sequence")]
    counters += [column_of(model, name) for name in [model.status_ordering.field] if name]
    fits = isinstance(sequence, int) and not isinstance(sequence, bool)
    try:
        for counter in counters if fits else ():
            counter.clean(sequence, None)
    except ValidationError:
        fits = False
    if not fits:
        raise InvalidSequence(f"A sequence number is an int that the column holds, not {sequence!r}.")
    if model.status_ordering.waits_for_predecessor and sequence < 1:
        raise InvalidSequence(f"An object's events are numbered from 1 on, not {sequence!r}.")


def is_text(value: str) -> bool:
    """Whether every database can hold it."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def lookup_value(model: type[StatusMixin], value: Any) -> Any:
    """The value as the column of ``status_lookup`` has it, or DoesNotExist: no row can have it."""
    name = model.status_lookup
    field = model._meta.pk if name == "pk" else column_of(model, name)
    try:
        if not is_text(str(value)):  # of which the drivers say different things
            raise ValidationError("Null characters and lone surrogates are not allowed.")
        return field.clean(value, None)
    except ValidationError as error:
        problem = " ".join(error.messages)
        raise model.DoesNotExist(f"{value!r} is no {name} of a {model.__name__}: {problem}") from error
