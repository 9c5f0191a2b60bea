"""The map as the shards have it: adopting another, and freezing slots while rows are moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from django.db import DatabaseError, connections, transaction
from django.db.models import F

from idempotency.database import DatabaseNow, error_number, impatient, is_conflict, sqlstate
from idempotency.exceptions import WrongShardMap
from idempotency.models import IdempotencyRecord, Shard, ShardSlot
from idempotency.shards.claims import LOCK_CLASS, SLOT
from idempotency.shards.maps import ShardMap, in_ranges
from idempotency.shards.routing import required_map

PAUSE_SECONDS = 0.2
LOCK_NOT_AVAILABLE = "55P03"


class MapError(Exception):
    """The map cannot be changed so; it says why, and what to do. Nothing was changed."""


@dataclass(frozen=True)
class Known:
    """What one shard says of itself."""

    alias: str
    shard: Shard | None
    owners: dict[int, str]
    frozen: frozenset[int]

    def differences(self, shards: ShardMap) -> Iterator[str]:
        """From what a process of this map needs. None: it may serve."""
        shard = self.shard
        if shard is None:
            yield f"{self.alias}: has no map. Run `manage.py shards adopt`."
            return
        if shard.name == self.alias and self.accepts(shards):
            return
        if shard.name != self.alias:
            yield f"{self.alias}: is the database that the map of the others calls {shard.name!r}."
        for other in dict.fromkeys([*self.owners.values(), *shards.owners]):
            slots = [slot for slot, owner in self.owners.items() if owner == other]
            moved: dict[str | None, list[int]] = {}
            for slot in slots:
                here = shards.owners[slot] if slot < len(shards.owners) else None
                if here != other:
                    moved.setdefault(here, []).append(slot)
            for here, numbers in moved.items():
                where = f"on {here!r}" if here else "not there"
                slots_there = f"slots {in_ranges(numbers)} on {other!r}"
                yield f"{self.alias}: has {slots_there}; in the settings they are {where}."
        if len(shards.owners) != len(self.owners):
            yield f"{self.alias}: has {len(self.owners)} slots, and the settings {len(shards.owners)}."
        if not self.accepts(shards):
            yield f"{self.alias}: has version {shard.version}, and the settings {shards.version}."

    def accepts(self, shards: ShardMap) -> bool:
        shard = self.shard
        maps = [(shard.version, shard.fingerprint)] if shard else []
        if shard and shard.previous_version is not None:
            maps.append((shard.previous_version, shard.previous_fingerprint or b""))
        return (shards.version, shards.fingerprint) in maps


def known(alias: str) -> Known:
    slots = ShardSlot.objects.using(alias).order_by("slot").values_list("slot", "owner", "frozen_at")
    rows = list(slots)
    return Known(
        alias,
        Shard.objects.using(alias).first(),
        {slot: owner for slot, owner, _ in rows},
        frozenset(slot for slot, _, frozen_at in rows if frozen_at),
    )


def everywhere(shards: ShardMap) -> list[Known]:
    return [known(alias) for alias in shards.aliases]


def require_same_map() -> None:
    """Refuse to begin: raises WrongShardMap where a shard does not have the map of the settings. Call it in
    ``wsgi.py`` or ``asgi.py``; each claim asks again."""
    shards = required_map()
    said = [line for each in everywhere(shards) for line in each.differences(shards)]
    if said:
        raise WrongShardMap("shards that do not have this process's map: " + " ".join(said))


def adopt(shards: ShardMap) -> list[str]:
    """Make it the map of all shards; the one before may be served too, until it is retired. Returns the
    aliases that did not have it. Raises MapError unless all slots that it moves are frozen everywhere."""
    found = everywhere(shards)
    frozen = frozenset().union(*(each.frozen for each in found))
    for each in found:
        require_adoptable(each, shards)
    late = [each for each in found if not is_current(each, shards)]
    for each in late:
        with transaction.atomic(using=each.alias):
            write(each, shards, frozen)
    return [each.alias for each in late]


def is_current(each: Known, shards: ShardMap) -> bool:
    return bool(each.shard and each.shard.version == shards.version)


def require_adoptable(each: Known, shards: ShardMap) -> None:
    shard = each.shard
    if shard is None:
        return
    if shard.name != each.alias:
        raise MapError(f"{each.alias} is the database that the map calls {shard.name!r}: mend DATABASES.")
    if shard.version > shards.version:
        raise MapError(
            f"{each.alias} has version {shard.version} already, and the settings are at {shards.version}."
        )
    if shard.version == shards.version:
        if shard.fingerprint != shards.fingerprint:
            raise MapError(f"{each.alias} has another map of version {shard.version}: count VERSION up.")
        return
    if shard.previous_version is not None:
        raise MapError(
            f"{each.alias} still serves version {shard.previous_version}: `shards retire` it first, with the "
            f"settings of version {shard.version}."
        )
    if len(each.owners) != len(shards.owners):
        raise MapError(f"There are {len(each.owners)} SLOTS, which never changes: keys would be elsewhere.")
    moved = [slot for slot, owner in each.owners.items() if shards.owners[slot] != owner]
    if hot := [slot for slot in moved if slot not in each.frozen]:
        raise MapError(
            f"{each.alias} serves slots {in_ranges(hot)}, which version {shards.version} moves: "
            "`shards freeze` them, with the settings as they were, and move their rows."
        )


def write(each: Known, shards: ShardMap, frozen: frozenset[int]) -> None:
    rows = ShardSlot.objects.using(each.alias)
    if each.shard is None:
        shard = Shard(name=each.alias, version=shards.version, fingerprint=shards.fingerprint)
        shard.save(using=each.alias, force_insert=True)
        # What is on its way here comes frozen, as it left.
        rows.bulk_create(
            ShardSlot(slot=slot, owner=owner, frozen_at=DatabaseNow() if slot in frozen else None)
            for slot, owner in enumerate(shards.owners)
        )
        return
    for alias in shards.aliases:
        slots = [slot for slot in shards.slots_on(alias) if each.owners[slot] != alias]
        rows.filter(slot__in=slots, frozen_at__isnull=False).update(owner=alias)
    changed = Shard.objects.using(each.alias).filter(version=each.shard.version, previous_version=None)
    done = changed.update(
        previous_version=F("version"),
        previous_fingerprint=F("fingerprint"),
        version=shards.version,
        fingerprint=shards.fingerprint,
    )
    if done != 1:
        raise MapError(f"{each.alias} is being changed by somebody else: look at `manage.py shards`.")


def require_current(shards: ShardMap) -> list[Known]:
    found = everywhere(shards)
    for each in found:
        if not is_current(each, shards) or not each.accepts(shards):
            said = " ".join(each.differences(shards)) or f"{each.alias} has another version."
            raise MapError(f"The shards do not have the map of the settings: {said}")
    return found


def retire(shards: ShardMap) -> None:
    """From now on a process of the map before is refused, whatever it asks for."""
    for each in require_current(shards):
        Shard.objects.using(each.alias).update(previous_version=None, previous_fingerprint=None)


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
    require_current(shards)
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
    """Whoever's time is over and who still is at work must not complete on the rows that are left behind."""
    running = IdempotencyRecord.objects.using(alias).filter(state=IdempotencyRecord.State.RUNNING)
    running.filter(fence__gt=0, slot__in=slots).update(fence=F("fence") + 1)


def unfreeze(slots: Collection[int], shards: ShardMap) -> None:
    """Raises MapError while the map before is served too: its processes would go where the slots were."""
    for each in require_current(shards):
        if each.shard and each.shard.previous_version is not None:
            raise MapError(
                f"{each.alias} still serves version {each.shard.previous_version}: `shards retire` it once "
                "no process has it any more."
            )
    for alias in shards.aliases:
        ShardSlot.objects.using(alias).filter(slot__in=slots).update(frozen_at=None)
