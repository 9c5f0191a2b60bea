"""What of a run is stored as JSON: arguments, results, and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from idempotency.exceptions import NotStorable
from idempotency.responses import StoredResponse
from idempotency.steps.step import Step


def json_of(value: Any, what: str) -> str:
    """Raises NotStorable unless JSON gives back an equal value."""
    try:
        return (StoredResponse.from_result(value).body or b"").decode()
    except NotStorable as error:
        raise NotStorable(f"{what}: {error}") from error


def plain(result: Any, name: str) -> Any:
    """As whoever goes on will have it, and no part of what the caller may change."""
    return json.loads(json_of(result, f"The result of the step {name}"))


def storable(text: str) -> str:
    """As every database's text column takes it."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def spelled(refusal: Exception) -> list[Any]:
    """What makes the same exception again: its class and those above it, its arguments, its attributes."""
    names = [kind.__qualname__ for kind in type(refusal).__mro__ if issubclass(kind, Exception)]
    arguments: list[Any] = [str(refusal)]
    with suppress(NotStorable):
        arguments = plain(list(refusal.args), "")
    attributes = {}
    for name, value in vars(refusal).items():
        with suppress(NotStorable):
            attributes[name] = plain(value, "")
    return [names, arguments, attributes]


def respelled(step: Step[..., Any], value: list[Any]) -> Exception:
    names, arguments, attributes = value
    kinds = {kind.__qualname__: kind for refusal in step.refusals for kind in derived(refusal)}
    kind = next((kinds[name] for name in names if name in kinds), None)
    if kind is None:
        raise TypeError(
            f"{step.name} was refused by {names[0]}, which is not among its refusals: add it there."
        )
    # Not by its constructor, which may take other arguments than it hands on.
    refusal = kind.__new__(kind, *arguments)
    refusal.args = tuple(arguments)
    vars(refusal).update(attributes)
    return refusal


def derived(kind: type[Exception]) -> Iterator[type[Exception]]:
    for derivate in kind.__subclasses__():
        yield from derived(derivate)
    yield kind
