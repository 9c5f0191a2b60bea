from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from idempotency.status.graph import TransitionGraph

if TYPE_CHECKING:
    from idempotency.status.mixins import StatusMixin

# What Mermaid takes for a state's id without further ado, its own words aside.
PLAIN = re.compile(r"(?!end$|state$|note$|direction$|class$)[A-Za-z_][A-Za-z0-9_]*", re.IGNORECASE)


def mermaid(model: type[StatusMixin]) -> str:
    """The transitions as a Mermaid state diagram, from the field's default to the terminal statuses."""
    return "\n".join(lines(model.status_graph(), model.initial_status())) + "\n"


def lines(graph: TransitionGraph, initial: Any) -> Iterator[str]:
    names = {status: state_id(number, str(status)) for number, status in enumerate(graph.statuses)}
    yield "stateDiagram-v2"
    for status, name in names.items():
        if name != str(status):
            yield f'    state "{escaped(str(status))}" as {name}'
    if initial in names:
        yield f"    [*] --> {names[initial]}"
    for status, targets in graph.targets.items():
        for target in targets:
            yield f"    {names[status]} --> {names[target]}"
    for status in graph.statuses:
        if graph.is_terminal(status):
            yield f"    {names[status]} --> [*]"


def state_id(number: int, status: str) -> str:
    return status if PLAIN.fullmatch(status) else f"status_{number}"


def escaped(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("\n", " ")
