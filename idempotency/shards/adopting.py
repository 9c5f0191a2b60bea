"""Making another map that of all shards."""

from __future__ import annotations

from django.db.models import F

from idempotency.database import DatabaseNow
from idempotency.models import Shard, ShardSlot
from idempotency.shards.freezing import under_lease
from idempotency.shards.maps import ShardMap, in_ranges
from idempotency.shards.stored import Known, MapError, changing, is_current, require_current, write_slot


def adopt(shards: ShardMap) -> list[str]:
    """Make it the map of all shards; the one before may be served too, until it is retired. Returns the
    aliases that did not have it. Raises MapError unless all slots that it moves are frozen everywhere."""
    with changing(shards) as found:
        frozen = frozenset().union(*(each.frozen for each in found))
        for each in found:
            require_adoptable(each, shards)
        late = [each for each in found if not is_current(each, shards)]
        for each in late:
            write(each, shards, frozen)
    return [each.alias for each in late]


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
    # A freeze that was broken off, or is still waiting, has not seen them end.
    left = [slot for slot in moved if each.owners[slot] == each.alias]
    if running := under_lease(each.alias, left):
        raise MapError(
            f"{each.alias}: {running} operations under a lease are at work in slots that version "
            f"{shards.version} moves: `shards freeze` has not returned. Run it again, with the settings as "
            "they were, and move the rows after it."
        )


def write(each: Known, shards: ShardMap, frozen: frozenset[int]) -> None:
    if each.shard is None:
        shard = Shard(name=each.alias, version=shards.version, fingerprint=shards.fingerprint)
        shard.save(using=each.alias, force_insert=True)
        # What is on its way here comes frozen, as it left.
        ShardSlot.objects.using(each.alias).bulk_create(
            ShardSlot(slot=slot, owner=owner, frozen_at=DatabaseNow() if slot in frozen else None)
            for slot, owner in enumerate(shards.owners)
        )
        return
    for slot, owner in enumerate(shards.owners):
        if each.owners[slot] != owner:
            write_slot(each.alias, slot, owner=owner)
    changed = Shard.objects.using(each.alias).filter(version=each.shard.version, previous_version=None)
    done = changed.update(
        previous_version=F("version"),
        previous_fingerprint=F("fingerprint"),
        version=shards.version,
        fingerprint=shards.fingerprint,
    )
    if done != 1:
        raise MapError(f"{each.alias} is being changed by somebody else: look at `manage.py shards`.")


def retire(shards: ShardMap) -> None:
    """From now on a process of the map before is refused, whatever it asks for."""
    with changing(shards) as found:
        require_current(found, shards)
        for each in found:
            Shard.objects.using(each.alias).update(previous_version=None, previous_fingerprint=None)
