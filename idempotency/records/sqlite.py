from __future__ import annotations

from idempotency.database import NOW
from idempotency.records.base import BaseRecordStore, Found


class SQLiteRecordStore(BaseRecordStore):
    """The claim is the database's one write lock, which BEGIN IMMEDIATE has taken already."""

    now = NOW["sqlite"]
    later = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', (%s / 1000000.0) || ' seconds')"
    insert_suffix = " ON CONFLICT DO NOTHING"

    def claim(self, expired: Found | None) -> Found | None:
        found = self.find()
        if found and found.live:
            return found
        if found:
            self.delete_expired(found.record)
        return None
