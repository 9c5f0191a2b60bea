"""Statuses that change only as declared, once per event, in whatever order the events come."""

from idempotency.status.change import Transition
from idempotency.status.locking import lock_rows
from idempotency.status.mixins import StatusMixin
from idempotency.status.ordering import BaseOrdering, ByRank, BySequence, Outcome, Park, Reject

__all__ = [
    "BaseOrdering",
    "ByRank",
    "BySequence",
    "Outcome",
    "Park",
    "Reject",
    "StatusMixin",
    "Transition",
    "lock_rows",
]
