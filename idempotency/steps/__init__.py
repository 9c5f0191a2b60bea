"""Operations that leave the database, written as steps, so that whoever retries goes on from the last."""

from idempotency.steps.downstream import downstream_key, on_behalf_of
from idempotency.steps.operation import Operation, operation
from idempotency.steps.step import (
    NOT_DONE,
    STILL_UNKNOWN,
    DatabaseStep,
    Done,
    OutsideCall,
    database_step,
    outside_call,
)

__all__ = [
    "NOT_DONE",
    "STILL_UNKNOWN",
    "DatabaseStep",
    "Done",
    "Operation",
    "OutsideCall",
    "database_step",
    "downstream_key",
    "on_behalf_of",
    "operation",
    "outside_call",
]
