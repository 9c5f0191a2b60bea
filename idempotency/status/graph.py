from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cached_property
from typing import Any

Status = Any
"""A value of the status field: a text or an int, or the enum member that equals it."""


def plain(status: Any) -> Any:
    """The value of an enum's member, which is what a column has; str() of a member may be its name."""
    return status.value if isinstance(status, Enum) else status


class TransitionGraph:
    """Which status may become which, as declared: ``{"created": ["paid", "cancelled"], …}``."""

    def __init__(self, transitions: Mapping[Status, Iterable[Status]]) -> None:
        self.targets = {plain(status): tuple(map(plain, targets)) for status, targets in transitions.items()}

    @cached_property
    def statuses(self) -> tuple[Status, ...]:
        """Every status that is named, in the order of its first mention as an origin, then as a target."""
        named = [*self.targets, *(target for targets in self.targets.values() for target in targets)]
        return tuple(dict.fromkeys(named))

    def allows(self, status: Status, target: Status) -> bool:
        return target in self.targets.get(status, ())

    def sources(self, target: Status) -> list[Status]:
        return [status for status, targets in self.targets.items() if target in targets]

    def is_terminal(self, status: Status) -> bool:
        return not self.targets.get(status)

    def leads_to(self, status: Status, target: Status) -> bool:
        """Whether one or more changes lead from the status to the target."""
        return target in self._reached[status] if status in self._reached else False

    @cached_property
    def _reached(self) -> dict[Status, set[Status]]:
        return {status: self._reached_from(status) for status in self.targets}

    def _reached_from(self, status: Status) -> set[Status]:
        reached: set[Status] = set()
        ahead = list(self.targets.get(status, ()))
        while ahead:
            if (next_one := ahead.pop()) not in reached:
                reached.add(next_one)
                ahead += self.targets.get(next_one, ())
        return reached
