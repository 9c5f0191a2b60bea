"""What is kept in the database, and the constraints that let each thing be done once."""

from idempotency.models.ledger import LedgerEntry
from idempotency.models.records import IdempotencyRecord, RecordQuerySet
from idempotency.models.status import ParkedEvent, ParkedEventQuerySet, StatusTransition
from idempotency.models.tokens import IdempotencyToken, TokenQuerySet

__all__ = [
    "IdempotencyRecord",
    "IdempotencyToken",
    "LedgerEntry",
    "ParkedEvent",
    "ParkedEventQuerySet",
    "RecordQuerySet",
    "StatusTransition",
    "TokenQuerySet",
]
