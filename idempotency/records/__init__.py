"""The unique index: a record in the business database, written in the business transaction."""

from idempotency.records.guard import RecordGuard

__all__ = ["RecordGuard"]
