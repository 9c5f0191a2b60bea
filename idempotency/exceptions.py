"""Everything that a guard refuses. Mechanisms raise these; adapters translate them to HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idempotency.models import IdempotencyRecord, StatusTransition
    from idempotency.status import Outcome, StatusMixin

WITHOUT_SETTING = (
    "The table of idempotency records has partitions, and this process does not know: it would look for "
    "uniqueness where none is. Give it the setting IDEMPOTENCY_PARTITIONS that the others have."
)


class IdempotencyError(Exception):
    """A refusal: nothing ran, nothing was kept.

    ``code`` is stable and part of the wire contract; ``detail`` says what to do about it;
    ``retry_after`` is in whole seconds, or None where a retry cannot help.
    """

    code = "idempotency-error"
    detail = "The operation was refused."
    retry_after: int | None = None

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        if detail is not None:
            self.detail = detail
        if retry_after is not None:
            self.retry_after = max(1, retry_after)
        super().__init__(self.detail)


class MissingKey(IdempotencyError):
    code = "missing-key"
    detail = "This operation needs an idempotency key: send one, and the same one with every retry."


class InvalidKey(IdempotencyError):
    code = "invalid-key"
    detail = "The idempotency key is malformed: send 1 to 255 printable ASCII characters, once."


class MissingPrincipal(IdempotencyError):
    code = "missing-principal"
    detail = "The key belongs to whoever sends it, and this request names nobody: sign in first."


class OperationInProgress(IdempotencyError):
    """The same key is being worked on, or the work was rolled back by a conflict in the database."""

    code = "conflict"
    detail = "An operation with this key is being worked on: retry with the same key."
    retry_after = 1


class SlotFrozen(OperationInProgress):
    """Of a shard: its rows are being moved."""

    detail = "This operation's data is being moved: retry with the same key."
    retry_after = 5


class CallsItself(OperationInProgress):
    """Within the transaction that works on a key. No other attempt will end otherwise."""

    detail = "This operation calls itself under its own key."


class FingerprintMismatch(IdempotencyError):
    code = "fingerprint-mismatch"
    detail = "This key was used with another payload: send a new operation under a new key."


class LeaseLost(OperationInProgress):
    """The time of whoever works on the key was over, and somebody else has taken it over since. Whatever was
    not committed is rolled back."""

    detail = "Somebody else has taken this operation over: retry with the same key for its answer."


class BrokenCall(OperationInProgress):
    """A call to the outside broke, and what came of it is found out by the next run."""

    def __init__(self, step: str | None) -> None:
        super().__init__(
            f"What came of the call {step!r} is not known yet: retry with the same key, and the operation "
            "goes on from there."
        )


class OutcomeUnknown(IdempotencyError):
    """``guard``: whose it is, where it is the caller's own."""

    code = "outcome-unknown"
    detail = "The outcome of this operation is not known yet: it is neither run again nor answered."

    def __init__(self, detail: str | None = None, *, guard: object = None) -> None:
        super().__init__(detail)
        self.guard = guard


class StepsChanged(OutcomeUnknown):
    """An operation cannot go on from where it was broken off: the program is another one by now, or asks for
    something else than it did. The release that began it can, and so can an operator decide."""

    def __init__(self, name: str, why: str | None = None, *, guard: object = None) -> None:
        why = why or "it was begun under other steps than it has now"
        super().__init__(
            f"The operation {name or 'of this caller'!r} cannot be gone on with: {why}.", guard=guard
        )


class ResultExpired(IdempotencyError):
    code = "result-expired"
    detail = "The operation was done; its response is no longer kept. It is not run again."


class StoreUnavailable(IdempotencyError):
    """The guard's store could not be read or written. After a failed commit it is not known which of
    the two happened: the retry finds out."""

    code = "store-unavailable"
    detail = "The idempotency store cannot be reached: retry later, with the same key or token."
    retry_after = 5


class WrongShardMap(StoreUnavailable):
    """This process and the database do not agree on where things are. ``difference`` is for operators, and
    no part of the answer."""

    def __init__(self, difference: str) -> None:
        super().__init__()
        self.difference = difference

    def __str__(self) -> str:
        return f"Refused by {self.difference}."


class ClosedInside(StoreUnavailable):
    """Not by an outage: the operation has closed the connection that its transaction was on."""

    detail = "The operation closed its own database connection, and was rolled back."


class MissingToken(IdempotencyError):
    code = "missing-token"
    detail = "This operation needs a one-time token: fetch one, and send it with the request."


class InvalidToken(IdempotencyError):
    """Malformed, or another caller's, or another operation's. It was not consumed."""

    code = "invalid-token"
    detail = "The token is malformed: send it as it was issued, once."


class ExpiredToken(IdempotencyError):
    """Neither issued nor used any more, as far as anyone knows."""

    code = "expired-token"
    detail = "The token has expired, or was never issued: fetch a new one."


class DuplicateToken(IdempotencyError):
    code = "duplicate"
    detail = "The token was already used, so its operation is not run again: look up what became of it."


class TooManyTokens(IdempotencyError):
    """The principal has been issued as many tokens as one lifetime allows."""

    code = "too-many-tokens"
    detail = "Too many tokens were issued to this caller: use those, or come back when they have expired."
    retry_after = 60


class AlreadyHandled(IdempotencyError):
    """Raised by ``guard`` when its id was handled before, or is not to be handled again."""

    code = "duplicate"
    detail = "This was handled before, so it is not handled again."

    def __init__(self, guard: object = None, detail: str | None = None) -> None:
        super().__init__(detail)
        self.guard = guard


class LockBusy(OperationInProgress):
    """Somebody else holds the lock, and did so for as long as was to be waited."""

    def __init__(self, name: str, retry_after: int = 1) -> None:
        super().__init__(f"The lock {name!r} is held: retry when it is free.", retry_after=retry_after)
        self.name = name


class LockLost(OperationInProgress):
    """The lock is not held any more: its time was over, or its medium forgot it or was away. Somebody
    else may hold it, so nothing more may be done in its name."""

    def __init__(self, name: str, detail: str | None = None) -> None:
        super().__init__(detail or f"The lock {name!r} was lost: undo what is not committed, and retry.")
        self.name = name


class StaleFence(OperationInProgress):
    """A later holder of the lock has written, or taken a fence, since this one took its own."""

    detail = "A later holder of the lock was here: the write is refused. Read again, and retry."


class LockNotHeld(RuntimeError):
    """Something that only the holder of a lock may do, outside of its block."""


class LockAlreadyHeld(RuntimeError):
    """The lock is held by the very caller: it is not reentrant, and waiting for oneself takes for ever."""


class ForkedConnection(RuntimeError):
    """A connection to ZooKeeper that was opened before this process was forked off."""


class TransitionRejected(IdempotencyError):
    """The status may not become that one from where it is. ``from_status`` and ``to_status`` say which."""

    code = "transition-rejected"
    detail = "The status does not allow this change."

    def __init__(self, from_status: Any, to_status: Any, detail: str | None = None) -> None:
        super().__init__(detail or f"The status cannot change from {from_status!s} to {to_status!s}.")
        self.from_status, self.to_status = from_status, to_status


class NotApplied(IdempotencyError):
    """Raised by the guard of an object's transition when there is nothing to do (any more, or yet).
    ``outcome`` is DUPLICATE, STALE or PARKED; ``entry`` is a duplicate's in the log, if it is there."""

    code = "duplicate"
    detail = "The status was not changed."

    def __init__(
        self, instance: StatusMixin, outcome: Outcome, entry: StatusTransition | None = None
    ) -> None:
        super().__init__(f"The status was not changed: {outcome.label}.")
        self.instance, self.outcome, self.entry = instance, outcome, entry


class ObjectGone(Exception):
    """Makes the DoesNotExist of an object whose row is gone known."""


class UnknownStatus(ValueError):
    """No status that the model's transitions name."""


class InvalidSequence(ValueError):
    """No number that events can be put in order by."""


class OutOfBounds(Exception):
    """A constraint of the database does not allow the value that an increment would lead to."""


class WrittenElsewhere(RuntimeError):
    """A column was assigned and saved which only its mechanism writes: a copy read earlier would undo
    what others did since."""


class AlreadyCompleted(Exception):
    """Raised by ``guard`` when its operation was done; ``record`` has what it answered."""

    def __init__(self, guard: object, record: IdempotencyRecord) -> None:
        super().__init__("The operation was completed.")
        self.guard = guard
        self.record = record


class DecisionRefused(Exception):
    """An operator's decision came too late, or is about nothing that is open. Nothing was written."""

    def __init__(self, why: str | None = None) -> None:
        super().__init__(why or "It is done, or being worked on, or has changed since it was looked at.")


class NotFingerprintable(TypeError):
    """An argument of an idempotent function has no stable digest. Nothing ran."""


class NotStorable(TypeError):
    """What an idempotent function returned cannot be stored and given back. Its writes rolled back."""


class GivenUp(Exception):
    """A message that is not tried again, for the reason that it says; nothing else was raised over it."""


class ForeignTransaction(RuntimeError):
    """A guard found itself in the transaction of another request that shares its connection."""
