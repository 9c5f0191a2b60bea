from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class DigestField(models.BinaryField):
    """Bytes of one length that an index can hold: MySQL's longblob cannot be unique."""

    def __init__(self, *args: Any, max_length: int, **kwargs: Any) -> None:
        super().__init__(*args, max_length=max_length, **kwargs)

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        if connection.vendor == "mysql":
            return f"binary({self.max_length})"
        return super().db_type(connection)

    def from_db_value(self, value: Any, *args: object) -> bytes | None:
        return None if value is None else bytes(value)
