from __future__ import annotations

from idempotency.database import LATER, NOW, SECONDS_UNTIL
from idempotency.records.base import BaseRecordStore, Found


class SQLiteRecordStore(BaseRecordStore):
    """The claim is the database's one write lock, which BEGIN IMMEDIATE has taken already."""

    now = NOW["sqlite"]
    later = LATER["sqlite"]
    seconds_until = SECONDS_UNTIL["sqlite"]
    insert_suffix = " ON CONFLICT DO NOTHING"

    def claim(self, expired: Found | None) -> Found | None:
        found = self.find()
        if found and (found.live or not found.is_done):
            return found
        if found:
            self.delete_expired(found.record)
        return None
