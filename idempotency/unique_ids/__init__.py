"""Ids that were handled already: a window's worth of them, so that each is handled once."""

from idempotency.unique_ids.base import BaseUniqueIdStore
from idempotency.unique_ids.guard import UniqueIdGuard
from idempotency.unique_ids.ids import UniqueIds, unique_ids

__all__ = ["BaseUniqueIdStore", "UniqueIdGuard", "UniqueIds", "unique_ids"]
