"""Records in the admin: to look at, and to release with a reason. Nothing here edits one."""

from idempotency.admin.records import IdempotencyRecordAdmin

__all__ = ["IdempotencyRecordAdmin"]
