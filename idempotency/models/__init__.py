"""What is kept in the database, and the constraints that let each thing be done once."""

from idempotency.models.ledger import LedgerEntry
from idempotency.models.locks import LockFence, LockFenceQuerySet, LockLease, LockLeaseQuerySet
from idempotency.models.messages import (
    FailedMessage,
    FailedMessageQuerySet,
    InboxMessage,
    OutboxMessage,
    OutboxQuerySet,
)
from idempotency.models.records import IdempotencyRecord, RecordQuerySet
from idempotency.models.runs import OperationRun
from idempotency.models.shards import Shard, ShardSlot
from idempotency.models.status import ParkedEvent, ParkedEventQuerySet, StatusTransition
from idempotency.models.tokens import IdempotencyToken, TokenQuerySet
from idempotency.models.unique_ids import UniqueId, UniqueIdQuerySet

__all__ = [
    "FailedMessage",
    "FailedMessageQuerySet",
    "IdempotencyRecord",
    "IdempotencyToken",
    "InboxMessage",
    "LedgerEntry",
    "LockFence",
    "LockFenceQuerySet",
    "LockLease",
    "LockLeaseQuerySet",
    "OperationRun",
    "OutboxMessage",
    "OutboxQuerySet",
    "ParkedEvent",
    "ParkedEventQuerySet",
    "RecordQuerySet",
    "Shard",
    "ShardSlot",
    "StatusTransition",
    "TokenQuerySet",
    "UniqueId",
    "UniqueIdQuerySet",
]
