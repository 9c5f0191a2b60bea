"""The points that an operation has reached, in the order in which it called its steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

BEGUN: Literal["begun"] = "begun"
DONE: Literal["done"] = "done"
REFUSED: Literal["refused"] = "refused"


@dataclass(frozen=True)
class Entry:
    """``value``: what the step returned; of a refusal, the exception's name and arguments."""

    step: str
    asked: str
    """A digest of the arguments."""
    state: str
    value: Any = None


def loaded(text: str) -> list[Entry]:
    return [Entry(**entry) for entry in json.loads(text)]


def dumped(entries: list[Entry]) -> str:
    return json.dumps([asdict(entry) for entry in entries], separators=(",", ":"))
