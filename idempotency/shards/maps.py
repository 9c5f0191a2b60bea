"""IDEMPOTENCY_SHARDS: a versioned map of fixed slots to database aliases."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from idempotency.keys import Scope, digest, principal_of

SLOTS = 4096
# The column is a smallint.
MOST_SLOTS = 32_768
OPTIONS = {"VERSION", "SLOTS", "MAP", "MODELS"}
RANGES = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", re.ASCII)


@dataclass(frozen=True)
class ShardMap:
    """``owners``: the alias of each slot, by its number. ``models``: lower-case labels of the models whose
    rows lie with the records, or of apps, all of whose models do."""

    version: int
    owners: tuple[str, ...]
    models: frozenset[str] = frozenset()

    @cached_property
    def fingerprint(self) -> bytes:
        """Sixteen bytes that two maps share only if they have the same slots on the same aliases, and spread
        the same models."""
        return digest(b"idem-shard-map", (*self.owners, "", *sorted(self.models)))

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.owners))

    def slot_of(self, shard_key: Scope) -> int:
        """Stable: it depends on the key and the number of slots alone. Raises MissingPrincipal."""
        whole = digest(b"idem-slot", principal_of(shard_key))
        return int.from_bytes(whole[:8], "big") % len(self.owners)

    def slots_on(self, alias: str) -> list[int]:
        return [slot for slot, owner in enumerate(self.owners) if owner == alias]

    def covers(self, model: Any) -> bool:
        """Whether the model's rows are spread over the shards."""
        meta = model._meta.concrete_model._meta
        if {meta.app_label.lower(), meta.label.lower()} & self.models:
            return True
        # What cannot be elsewhere: the other part of a child's row, and links of many to many.
        belongs_to = [*meta.parents, *([meta.auto_created] if meta.auto_created else [])]
        return any(map(self.covers, belongs_to))


_known: tuple[object, ShardMap | None] = (None, None)


def shard_map() -> ShardMap | None:
    """The map of IDEMPOTENCY_SHARDS; None without the setting. Raises ImproperlyConfigured."""
    global _known
    setting = getattr(settings, "IDEMPOTENCY_SHARDS", None)
    known, parsed = _known
    if setting is not known:
        parsed = None if setting is None else parse(setting)
        _known = (setting, parsed)
    return parsed


def parse(setting: Any) -> ShardMap:
    if not isinstance(setting, Mapping):
        raise wrong(f"must be a dict with VERSION and MAP, not {setting!r}")
    if unknown := sorted(map(str, setting.keys() - OPTIONS)):
        raise wrong(f"has unknown options: {', '.join(unknown)}. It takes {', '.join(sorted(OPTIONS))}")
    version, slots, models = setting.get("VERSION"), setting.get("SLOTS", SLOTS), setting.get("MODELS", ())
    if not is_count(version):
        raise wrong(f"['VERSION'] counts the map's changes, from 1 on, and is not {version!r}")
    if not is_count(slots) or slots > MOST_SLOTS:
        raise wrong(f"['SLOTS'] is a number from 1 to {MOST_SLOTS}, not {slots!r}")
    if isinstance(models, str) or not isinstance(models, Collection):
        raise wrong(f"['MODELS'] is a list of labels such as 'shop.Order', not {models!r}")
    owners = parse_owners(setting.get("MAP"), slots)
    return ShardMap(version, owners, frozenset(str(label).lower() for label in models))


def parse_owners(owners: Any, slots: int) -> tuple[str, ...]:
    if not isinstance(owners, Mapping) or not owners:
        example = f"{{'default': '0-{slots - 1}'}}"
        raise wrong(f"['MAP'] gives each database alias its slots, as {example}, not {owners!r}")
    found: dict[int, str] = {}
    for alias, ranges in owners.items():
        if alias not in settings.DATABASES:
            known = ", ".join(settings.DATABASES)
            raise wrong(f"['MAP'] names {alias!r}, which DATABASES does not have: use one of {known}")
        for slot in parse_slots(ranges, slots, f"['MAP'][{alias!r}]"):
            if slot in found:
                raise wrong(f"['MAP'] has slot {slot} twice, on {found[slot]!r} and {alias!r}")
            found[slot] = alias
    if missing := [slot for slot in range(slots) if slot not in found]:
        raise wrong(f"['MAP'] leaves out slots {in_ranges(missing)}: each must be somewhere")
    return tuple(found[slot] for slot in range(slots))


def parse_slots(ranges: Any, slots: int, where: str = "") -> list[int]:
    """``"0-1023, 2048"`` as numbers. Raises ImproperlyConfigured."""
    found: list[int] = []
    for part in ranges.split(",") if isinstance(ranges, str) else [None]:
        parsed = RANGES.fullmatch(part or "")
        first = int(parsed[1]) if parsed else -1
        last = int(parsed[2] or first) if parsed else -1
        if not 0 <= first <= last < slots:
            raise wrong(f"{where}: slots are given as '0-99, 200', from 0 to {slots - 1}, not {ranges!r}")
        found += range(first, last + 1)
    return found


def in_ranges(slots: Iterable[int]) -> str:
    """``0-1023, 2048`` of sorted numbers."""
    ranges: list[list[int]] = []
    for slot in slots:
        if ranges and slot == ranges[-1][1] + 1:
            ranges[-1][1] = slot
        else:
            ranges.append([slot, slot])
    return ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in ranges)


def is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def wrong(what: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"IDEMPOTENCY_SHARDS{'' if what.startswith('[') else ' '}{what}.")
