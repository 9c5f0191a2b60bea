"""What each claim on a shard asks of it, within its own transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency.database import LOCK_WAIT_TIMEOUT, error_number, impatient, lock_and_look
from idempotency.exceptions import SlotFrozen, WrongShardMap
from idempotency.models.shards import Shard, ShardSlot
from idempotency.shards.maps import ShardMap, shard_map
from idempotency.shards.routing import slot_of

logger = logging.getLogger("idempotency")
# The first of two numbers that name an advisory lock; those of keys are single ones, and never the same.
LOCK_CLASS = 0x1DE_3907
# MySQL's, for NOWAIT.
NOWAIT_REFUSED = 3572
MINUTE = 60
_logged: dict[str, float] = {}
SHARD, SLOT = Shard._meta.db_table, ShardSlot._meta.db_table
MAP = "m.name, m.version, m.fingerprint, m.previous_version, m.previous_fingerprint"
LOCK = "SELECT set_config('idempotency.slot', pg_try_advisory_xact_lock_shared(%s, %s)::text, true)"
LOOK = (
    "SELECT current_setting('idempotency.slot'), current_setting('transaction_isolation'), "
    f"{MAP}, s.owner, s.frozen_at IS NOT NULL FROM {SHARD} m LEFT JOIN {SLOT} s ON s.slot = %s"
)


class Stored(NamedTuple):
    """What a shard says of itself, and of one slot."""

    name: str
    version: int
    fingerprint: bytes
    previous_version: int | None
    previous_fingerprint: bytes | None
    owner: str | None
    is_frozen: bool

    def accepts(self, shards: ShardMap) -> bool:
        maps = {(self.version, bytes(self.fingerprint))}
        if self.previous_version is not None:
            maps.add((self.previous_version, bytes(self.previous_fingerprint or b"")))
        return (shards.version, shards.fingerprint) in maps


def hold(using: str) -> None:
    """Make sure, until the current transaction ends, that the slot is here and is not frozen.

    Freezing waits for everybody who holds the slot. Does nothing for an alias that stands for no slot.
    Raises SlotFrozen and WrongShardMap.
    """
    slot, shards = slot_of(using), shard_map()
    if slot is None or shards is None:
        return
    stored = ask(connections[using], slot)
    if stored is None or not stored.accepts(shards):
        raise refusal(using, slot, shards, stored)
    if stored.is_frozen:
        raise SlotFrozen
    # The slot's own row, which is locked: whatever map a process has, it is refused where the slot is not.
    if not using == stored.owner == stored.name:
        raise refusal(using, slot, shards, stored)


@contextmanager
def held(using: str) -> Iterator[None]:
    """A transaction that holds the slot; none, for an alias that stands for no slot."""
    if slot_of(using) is None:
        yield
        return
    with transaction.atomic(using=using, savepoint=False):
        hold(using)
        yield


def ask(connection: BaseDatabaseWrapper, slot: int) -> Stored | None:
    if connection.vendor == "postgresql":
        return ask_postgresql(connection, slot)
    if connection.vendor == "mysql":
        return ask_mysql(connection, slot)
    # SQLite's one write lock is taken already.
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {MAP}, s.owner, s.frozen_at IS NOT NULL "
            f"FROM {SHARD} m LEFT JOIN {SLOT} s ON s.slot = %s",
            (slot,),
        )
        return stored(cursor.fetchone())


def ask_postgresql(connection: BaseDatabaseWrapper, slot: int) -> Stored | None:
    """Under READ COMMITTED the second statement sees what was committed before the lock was had."""
    row = lock_and_look(connection, LOCK, (LOCK_CLASS, slot), LOOK, (slot,))
    if row is None:
        return None
    held, isolation, *found = row
    if held != "true":
        raise SlotFrozen
    if isolation != "read committed":
        # Its snapshot may be older: a row that was changed since cannot be locked then.
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {SLOT} WHERE slot = %s FOR SHARE", (slot,))
    return stored(found)


def ask_mysql(connection: BaseDatabaseWrapper, slot: int) -> Stored | None:
    """A shared lock of the slot's row, which is read as it is now, whatever the isolation level."""
    is_mariadb = bool(impatient(connection))
    suffix = "LOCK IN SHARE MODE" if is_mariadb else "FOR SHARE NOWAIT"
    with connection.cursor() as cursor:
        try:
            cursor.execute(
                f"{impatient(connection)}SELECT owner, frozen_at IS NOT NULL FROM {SLOT} "
                f"WHERE slot = %s {suffix}",
                (slot,),
            )
        except DatabaseError as error:
            if error_number(error) in (LOCK_WAIT_TIMEOUT, NOWAIT_REFUSED):
                raise SlotFrozen from error
            raise
        of_slot = cursor.fetchone() or (None, 0)
        cursor.execute(f"SELECT {MAP} FROM {SHARD} m")
        of_shard = cursor.fetchone()
    return stored(of_shard and (*of_shard, *of_slot))


def stored(row: Any) -> Stored | None:
    return Stored._make((*row[:-1], bool(row[-1]))) if row else None


def refusal(using: str, slot: int, shards: ShardMap, stored: Stored | None) -> WrongShardMap:
    difference, now = said_of(using, slot, shards, stored), time.monotonic()
    # Each request is refused; who reads the log need not be told each time.
    if now - _logged.get(difference, -MINUTE) >= MINUTE:
        _logged[difference] = now
        logger.error("refused: %s", difference)
    return WrongShardMap(difference)


def said_of(using: str, slot: int, shards: ShardMap, stored: Stored | None) -> str:
    if stored is None:
        return (
            f"database {str(using)!r} has no shard map: run `manage.py shards adopt` once all databases are "
            "migrated"
        )
    return (
        f"this process has version {shards.version} of the shard map, with slot {slot} on {str(using)!r}; "
        f"that database calls itself {stored.name!r}, has version {stored.version}, and the slot on "
        f"{stored.owner!r}. `manage.py shards` shows the whole difference"
    )
