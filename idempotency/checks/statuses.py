"""What models say about their statuses and amounts that cannot work."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models, router
from django.db.models import UniqueConstraint

from idempotency.ledger import LedgerMixin
from idempotency.models import LedgerEntry, ParkedEvent, StatusTransition
from idempotency.models.subjects import column_of, owner_of
from idempotency.shards.routing import aliases_of
from idempotency.status import BaseOrdering, StatusMixin

TEXTS_AND_INTEGERS = (models.CharField, models.TextField, models.IntegerField)
AMOUNTS = (models.IntegerField, models.DecimalField)


def status_models() -> list[type[StatusMixin]]:
    return [model for model in apps.get_models() if issubclass(model, StatusMixin)]


def ledger_models() -> list[type[LedgerMixin]]:
    return [model for model in apps.get_models() if issubclass(model, LedgerMixin)]


def guarded_models() -> list[type[models.Model]]:
    return [*status_models(), *ledger_models()]


def check_statuses() -> Iterator[CheckMessage]:
    for model in status_models():
        problems = list(field_problems(model)) or list(transition_problems(model))
        for problem in problems:
            yield error(model, problem, "Correct status_field or status_transitions.", "E015")
        if not problems:
            yield from check_ordering(model)
            yield from check_lookup(model)


def field_problems(model: type[StatusMixin]) -> Iterator[str]:
    field = column(model, model.status_field)
    if field is None:
        yield f"status_field names {model.status_field!r}, which is no field of it."
    elif not isinstance(field, TEXTS_AND_INTEGERS):
        yield f"{field.name} is a {type(field).__name__}: a status is a text or an integer."


def transition_problems(model: type[StatusMixin]) -> Iterator[str]:
    declared: Any = model.status_transitions
    if not isinstance(declared, Mapping) or not declared:
        yield "status_transitions declares nothing: it takes a dict of lists, {from: [to, …]}."
        return
    for status, targets in declared.items():
        if isinstance(targets, str) or not isinstance(targets, Iterable) or not all_hashable(targets):
            yield f"status_transitions[{status!r}] is {targets!r}: give a list of statuses."
            return
    field: Any = column_of(model, model.status_field)
    choices = {value for value, _ in field.flatchoices}
    for status in model.status_graph().statuses:
        if not is_value(field, status):
            yield f"{status!r} in status_transitions is no value of a {type(field).__name__}."
        elif choices and status not in choices:
            yield f"{status!r} in status_transitions is none of the field's choices."
        elif field.max_length and len(str(status)) > field.max_length:
            yield f"{status!r} in status_transitions is longer than the field."
    fixed = field.has_default() and not callable(field.default)
    if fixed and field.get_default() not in model.status_graph().statuses:
        yield f"the field's default {field.get_default()!r} is not in status_transitions."


def all_hashable(values: Iterable[Any]) -> bool:
    return all(isinstance(value, Hashable) for value in values)


def is_value(field: models.Field[Any, Any], status: Any) -> bool:
    try:
        return bool(field.to_python(status) == status)
    except ValidationError:
        return False


def check_ordering(model: type[StatusMixin]) -> Iterator[CheckMessage]:
    ordering: Any = model.status_ordering
    if not isinstance(ordering, BaseOrdering):
        problems = [
            f"status_ordering is {ordering!r}: give an instance of Reject, ByRank, BySequence or Park"
        ]
    else:
        problems = ordering.problems(model.status_graph())
        if ordering.field is not None and not is_counter(model, ordering.field):
            problems.append(
                f"its ordering names {ordering.field!r}, which is no integer field beside the status"
            )
    for problem in problems:
        yield error(model, f"{problem}.", "Correct status_ordering.", "E016")


def is_counter(model: type[StatusMixin], name: str) -> bool:
    field = column(model, name)
    if not isinstance(field, models.IntegerField) or field.primary_key or name == model.status_field:
        return False
    return owner_of(model, name) is owner_of(model, model.status_field)


def check_lookup(model: type[StatusMixin]) -> Iterator[CheckMessage]:
    name = model.status_lookup
    if name != "pk" and not is_unique(model, name):
        yield error(
            model,
            f"status_lookup names {name!r}, which is neither the primary key nor unique: two rows could be "
            "made for one object, and InnoDB would lock every row that it looks at.",
            "Put unique=True on the field, or name one that has it.",
            "E017",
        )


def is_unique(model: type[models.Model], name: str) -> bool:
    field = column(model, name)
    if field is None:
        return False
    constraints = field.model._meta.constraints
    alone = [each for each in constraints if isinstance(each, UniqueConstraint) and each.fields == (name,)]
    return field.unique or any(each.condition is None for each in alone)


def check_ledgers() -> Iterator[CheckMessage]:
    for model in ledger_models():
        names: Any = model.ledger_fields
        if isinstance(names, str) or not isinstance(names, Collection) or not names:
            yield error(
                model, f"ledger_fields is {names!r}.", 'Name its amounts: ledger_fields = ("stock",).', "E019"
            )
            continue
        for name in names:
            field = column(model, name)
            if not isinstance(field, AMOUNTS) or field.primary_key:
                yield error(
                    model,
                    f"ledger_fields names {name!r}, which is no integer or decimal field of it.",
                    "Use one of these: others do not add up exactly.",
                    "E019",
                )
            elif field.null:
                yield error(
                    model,
                    f"ledger_fields names {name!r}, which may be NULL: nothing can be added to that.",
                    "Give it a default, and drop null=True.",
                    "E019",
                )


def check_logs() -> Iterator[CheckMessage]:
    for model in guarded_models():
        alias = aliases_of(model)[0]
        logs: list[type[models.Model]] = [LedgerEntry] if issubclass(model, LedgerMixin) else []
        logs += [StatusTransition, ParkedEvent] if issubclass(model, StatusMixin) else []
        absent = [log._meta.label for log in logs if not router.allow_migrate_model(alias, log)]
        if absent:
            yield error(
                model,
                f"It is written to {alias!r}, where the routers do not allow {', '.join(absent)}: the change "
                "and its log could not commit together.",
                f"Let the routers migrate idempotency and contenttypes in {alias!r} too.",
                "E018",
            )


def column(model: type[models.Model], name: Any) -> models.Field[Any, Any] | None:
    try:
        return column_of(model, name) if isinstance(name, str) else None
    except FieldDoesNotExist:
        return None


def error(model: type[models.Model], text: str, hint: str, number: str) -> Error:
    return Error(text, hint=hint, obj=model, id=f"idempotency.{number}")
