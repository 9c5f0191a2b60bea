"""What of a run is stored as JSON: arguments, results, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def spelled(refusal: Exception) -> list[Any]:
    """What makes the same exception again."""
    arguments: list[Any] = [str(refusal)]
    with suppress(NotStorable):
        arguments = plain(list(refusal.args), "")
    return [type(refusal).__qualname__, arguments]


def respelled(step: Step[..., Any], value: list[Any]) -> Exception:
    name, arguments = value
    kinds: list[Callable[..., Exception]] = [kind for kind in step.refusals if kind.__qualname__ == name]
    if not kinds:
        raise TypeError(f"{step.name} was refused by {name}, which is not among its refusals: add it there.")
    return kinds[0](*arguments)
