"""The map as the shards have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import F

from idempotency.exceptions import WrongShardMap
from idempotency.models import Shard, ShardSlot
from idempotency.shards.maps import ShardMap, in_ranges
from idempotency.shards.routing import required_map


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
        if shard.version != shards.version:
            yield f"{self.alias}: has version {shard.version}, and the settings {shards.version}."
        elif tuple(self.owners.values()) == shards.owners and not self.accepts(shards):
            yield f"{self.alias}: has other MODELS in version {shard.version}."

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


@contextmanager
def changing(shards: ShardMap) -> Iterator[list[Known]]:
    """What all shards say of themselves, which nobody else changes until the block is left. They commit one
    after the other."""
    with ExitStack() as transactions:
        # In one order, so that two operators do not wait for each other.
        for alias in sorted(shards.aliases):
            transactions.enter_context(transaction.atomic(using=alias))
            # Locks also where there is no SELECT FOR UPDATE.
            Shard.objects.using(alias).update(version=F("version"))
        yield everywhere(shards)


def write_slot(alias: str, slot: int, **values: Any) -> None:
    """One at a time: of many, MariaDB reads and locks all under REPEATABLE READ, and waits for who is at
    work in the others."""
    ShardSlot.objects.using(alias).filter(slot=slot).update(**values)


def is_current(each: Known, shards: ShardMap) -> bool:
    return bool(each.shard and each.shard.version == shards.version)


def require_current(found: list[Known], shards: ShardMap) -> None:
    for each in found:
        if not is_current(each, shards) or not each.accepts(shards):
            said = " ".join(each.differences(shards)) or f"{each.alias} has another version."
            raise MapError(f"The shards do not have the map of the settings: {said}")
