"""Refusing operations in slots while their rows are moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from django.db import DatabaseError, connections, transaction
from django.db.models import F

from idempotency.database import error_number, impatient, is_conflict, sqlstate
from idempotency.models import IdempotencyRecord
from idempotency.shards.claims import LOCK_CLASS, SLOT
from idempotency.shards.maps import ShardMap, in_ranges
from idempotency.shards.stored import MapError, changing, everywhere, require_current, write_slot

PAUSE_SECONDS = 0.2
LOCK_NOT_AVAILABLE = "55P03"


def freeze(
    slots: Collection[int],
    shards: ShardMap,
    *,
    seconds: float,
    on_wait: Callable[[str], None] = lambda text: None,
) -> None:
    """Refuse whoever comes, and return when nobody works in the slots any more, nor can.

    Raises MapError when ``seconds`` are over before; the slots stay frozen, and calling it again goes on.
    """
    require_current(everywhere(shards), shards)
    deadline = time.monotonic() + seconds
    for slot in sorted(slots):
        # First where it is, and where people are at work.
        for alias in sorted(shards.aliases, key=lambda alias: alias != shards.owners[slot]):
            freeze_slot(alias, slot, deadline)
    for alias in shards.aliases:
        mine = [slot for slot in slots if shards.owners[slot] == alias]
        while running := under_lease(alias, mine):
            if time.monotonic() > deadline:
                raise MapError(
                    f"{alias}: {running} operations under a lease are still at work in these slots, which "
                    "stay frozen: run the command again, or `unfreeze` them."
                )
            on_wait(f"{alias}: waiting for {running} operations under a lease")
            time.sleep(PAUSE_SECONDS)
        depose(alias, mine)
    require_frozen(slots, shards)


def freeze_slot(alias: str, slot: int, deadline: float) -> None:
    """Waits for the transactions that hold it; whoever comes meanwhile is refused."""
    connection, seconds = connections[alias], max(1, int(deadline - time.monotonic()))
    prefix = impatient(connection).replace("=0", f"={seconds}")
    try:
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"SET LOCAL lock_timeout = '{seconds}s'")
                cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, slot))
            now = {"postgresql": "statement_timestamp()", "mysql": "UTC_TIMESTAMP(6)"}
            cursor.execute(
                f"{prefix}UPDATE {SLOT} SET frozen_at = COALESCE(frozen_at, "
                f"{now.get(connection.vendor, 'CURRENT_TIMESTAMP')}) WHERE slot = %s",
                (slot,),
            )
    except DatabaseError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE and not is_conflict(error) and error_number(error) is None:
            raise
        raise MapError(
            f"{alias}: operations in slot {slot} are still at work: wait for them, and run the command again."
        ) from error


def under_lease(alias: str, slots: Collection[int]) -> int:
    running = IdempotencyRecord.objects.using(alias).live().filter(state=IdempotencyRecord.State.RUNNING)
    return running.filter(fence__gt=0, slot__in=slots).count()


def depose(alias: str, slots: Collection[int]) -> None:
    """Whoever's time is over and who still is at work must not complete on the rows that are left behind:
    also where the outcome has been given up for unknown meanwhile."""
    states = (IdempotencyRecord.State.RUNNING, IdempotencyRecord.State.UNKNOWN)
    nobodys = IdempotencyRecord.objects.using(alias).filter(state__in=states, fence__gt=0)
    nobodys.filter(slot__in=slots).update(fence=F("fence") + 1)


def require_frozen(slots: Collection[int], shards: ShardMap) -> None:
    found = everywhere(shards)
    require_current(found, shards)
    for each in found:
        if served := sorted(set(slots) - each.frozen):
            raise MapError(
                f"{each.alias}: somebody else has let in slots {in_ranges(served)} meanwhile: run the "
                "command again."
            )


def unfreeze(slots: Collection[int], shards: ShardMap) -> None:
    """Raises MapError while the map before is served too: its processes would go where the slots were."""
    # Last where they are: while a slot is frozen in one of the others it may be half let in, and not served.
    for is_last in (False, True):
        with changing(shards) as found:
            require_current(found, shards)
            for each in found:
                if each.shard and each.shard.previous_version is not None:
                    raise MapError(
                        f"{each.alias} still serves version {each.shard.previous_version}: `shards retire` "
                        "it once no process has it any more."
                    )
                for slot in each.frozen.intersection(slots):
                    if (shards.owners[slot] == each.alias) == is_last:
                        write_slot(each.alias, slot, frozen_at=None)
