"""Where the shop keeps its rows: an SQLite file, or a server named by an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ENGINES = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def sqlite(path: Path | str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {
            # The guard's claim is the write lock, so a transaction has to begin by taking it.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL;",
        },
    }


def server(address: str) -> dict[str, Any]:
    """``vendor://user:password@host:port/name``, its parts percent-encoded where they must be.

    Vendors are postgresql, mysql and mariadb. Raises ValueError for any other.
    """
    parts = urlsplit(address)
    if parts.scheme not in ENGINES:
        raise ValueError(f"The shop knows no database {parts.scheme!r}: use one of {', '.join(ENGINES)}.")
    engine = ENGINES[parts.scheme]
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": {"charset": "utf8mb4"} if engine == "mysql" else {},
    }
