from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from idempotency.exceptions import OutcomeUnknown, StepsChanged
from idempotency.keys import DIGEST_SIZE
from idempotency.models import OperationRun

if TYPE_CHECKING:
    from idempotency.steps.operation import Operation

NO_STEPS = bytes(DIGEST_SIZE)


@dataclass(frozen=True)
class Terms:
    """For how long an operation is its owner's, and what may become of it when that is over."""

    lease: timedelta
    retention: timedelta
    rerun: bool = False
    operation: Operation[Any, Any] | None = None
    is_answer: bool = False
    """Whether the operation's result is what is answered."""

    @property
    def name(self) -> str | None:
        """As what its run is stored; None where it may not be run again."""
        if self.operation:
            return self.operation.name
        return "" if self.rerun else None

    @property
    def may_go_on(self) -> bool:
        return self.name is not None

    @property
    def digest(self) -> bytes:
        return self.operation.digest if self.operation else NO_STEPS

    def require_same(self, run: OperationRun) -> None:
        """Raises OutcomeUnknown, or StepsChanged, which is one."""
        if self.name is None:
            raise OutcomeUnknown
        if run.name != self.name or bytes(run.steps_digest) != self.digest:
            raise StepsChanged(run.name)

    def may_ask(self, run: OperationRun) -> bool:
        """Whether somebody can be asked what became of the call that the run broke off in."""
        return self.operation is not None and self.operation.may_ask(run)
