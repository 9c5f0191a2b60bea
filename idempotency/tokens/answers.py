"""What a store says of a token, what becomes of a token, and how its caller is told."""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal

from idempotency.exceptions import DuplicateToken, ExpiredToken, InvalidToken, OperationInProgress

OnFailure = Literal["consume", "restore"]
"""What becomes of a token whose operation failed, where the two cannot be committed together.

"consume": it is gone ("delete first"). Nothing runs twice, whatever fails; the caller must look up what
became of the operation, or fetch a new token.
"restore": it is good again ("delete after"), once the work is known to be rolled back; the work runs in
one transaction. What had effects elsewhere before it failed has them again.
"""


class Answer(Enum):
    """What a store says of a token that somebody wants to consume."""

    WON = auto()
    USED = auto()
    EXPIRED = auto()
    FOREIGN = auto()
    BUSY = auto()
    """Another transaction is consuming it, and may yet roll back."""


def settle(answer: Answer) -> None:
    """Raise unless it was won."""
    match answer:
        case Answer.BUSY:
            raise OperationInProgress("An operation with this token is being worked on: retry.")
        case Answer.USED:
            raise DuplicateToken
        case Answer.EXPIRED:
            raise ExpiredToken
        case Answer.FOREIGN:
            raise InvalidToken("The token was issued to another caller, or for another operation.")
