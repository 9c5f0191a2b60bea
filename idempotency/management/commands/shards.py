from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections
from django.db.models import Count

from idempotency.models import IdempotencyRecord
from idempotency.shards.adopting import adopt, retire
from idempotency.shards.freezing import freeze, unfreeze
from idempotency.shards.maps import ShardMap, in_ranges, parse_slots
from idempotency.shards.routing import required_map
from idempotency.shards.stored import Known, MapError, everywhere

ACTIONS = ("show", "check", "adopt", "retire", "freeze", "unfreeze")


class Command(BaseCommand):
    help = (
        "Show the shards: their slots, records, skew and versions of the map. `adopt` makes the map of the "
        "settings theirs; `retire` ends the one before. `freeze` has operations in slots refused (409, with "
        "Retry-After) and returns when nobody works there any more, so that their rows can be moved; "
        "`unfreeze` lets them in. `check` exits with 1 where a process of these settings would be refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", nargs="?", choices=ACTIONS, default="show")
        parser.add_argument("slots", nargs="?", help="Of freeze and unfreeze: '17', or '0-99, 200'.")
        parser.add_argument(
            "--exact", action="store_true", help="Count records, by reading them all, also of each slot."
        )
        parser.add_argument(
            "--max-seconds",
            type=float,
            default=60,
            help="How long `freeze` waits for operations that are at work (default: 60).",
        )

    def handle(self, *, action: str, slots: str | None, **options: Any) -> None:
        try:
            shards = required_map()
            if (slots is None) != (action not in ("freeze", "unfreeze")):
                said = "takes no slots" if slots is not None else "takes slots, such as '0-99, 200'"
                raise CommandError(f"`shards {action}` {said}.")
            chosen = parse_slots(slots, len(shards.owners)) if slots is not None else []
            getattr(self, f"do_{action}")(shards, chosen, options)
        except (MapError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        except Error as error:
            reason = " ".join(str(error).split())
            raise CommandError(
                f"A database failed: {reason}. Are all up, and is `migrate` done there?"
            ) from error

    def do_show(self, shards: ShardMap, chosen: list[int], options: dict[str, Any]) -> None:
        found = everywhere(shards)
        self.stdout.write(
            f"Version {shards.version} of the settings, {shards.fingerprint.hex()[:12]}: "
            f"{len(shards.owners)} slots on {len(found)} databases."
        )
        rows = {each.alias: records(each.alias, exact=options["exact"]) for each in found if each.shard}
        mean = sum(rows.values()) / len(rows) if rows else 0
        for each in found:
            self.stdout.write(self.line(each, shards, rows.get(each.alias), mean))
        if options["exact"]:
            self.count_slots(found, shards)
        self.differences(found, shards)

    def line(self, each: Known, shards: ShardMap, rows: int | None, mean: float) -> str:
        if each.shard is None:
            return f"  {each.alias}: no map yet"
        version = f"version {each.shard.version}"
        if each.shard.previous_version is not None:
            version += f", and {each.shard.previous_version} until it is retired"
        mine = shards.slots_on(each.alias)
        frozen = [slot for slot in sorted(each.frozen) if shards.owners[slot] == each.alias]
        skew = f" ({rows / mean:.2f} of the mean)" if rows is not None and mean else ""
        text = f"  {each.alias}: {version}; {len(mine)} slots ({in_ranges(mine)}); records: {rows}{skew}"
        return text + (f"; frozen: {in_ranges(frozen)}" if frozen else "")

    def count_slots(self, found: list[Known], shards: ShardMap) -> None:
        heaviest: Counter[int] = Counter()
        for each in found:
            rows = IdempotencyRecord.objects.using(each.alias).order_by().values_list("slot")
            counted = dict(rows.annotate(count=Count("pk")))
            without = counted.pop(None, 0)
            astray = [slot for slot in sorted(counted) if shards.owners[slot] != each.alias]
            if without:
                self.stdout.write(f"  {each.alias}: {without} records of no slot")
            if astray:
                self.stdout.write(
                    f"  {each.alias}: records astray, whose slots are elsewhere: {in_ranges(astray)}"
                )
            heaviest.update({slot: count for slot, count in counted.items() if slot not in astray})
        for slot, count in heaviest.most_common(5):
            self.stdout.write(f"  slot {slot} on {shards.owners[slot]}: {count} records")

    def differences(self, found: list[Known], shards: ShardMap) -> bool:
        lines = [line for each in found for line in each.differences(shards)]
        for line in lines:
            self.stdout.write(self.style.ERROR(f"Differs: {line}"))
        return bool(lines)

    def do_check(self, shards: ShardMap, chosen: list[int], options: dict[str, Any]) -> None:
        if self.differences(everywhere(shards), shards):
            raise CommandError("A process of these settings would be refused.")
        self.stdout.write(f"All shards have version {shards.version}.")

    def do_adopt(self, shards: ShardMap, chosen: list[int], options: dict[str, Any]) -> None:
        changed = adopt(shards)
        self.stdout.write(
            f"Version {shards.version} is now that of: {', '.join(changed) or 'no further shard'}."
        )

    def do_retire(self, shards: ShardMap, chosen: list[int], options: dict[str, Any]) -> None:
        retire(shards)
        self.stdout.write(f"Version {shards.version} is now the only one that is served.")

    def do_freeze(self, shards: ShardMap, chosen: list[int], options: dict[str, Any]) -> None:
        freeze(chosen, shards, seconds=options["max_seconds"], on_wait=self.stderr.write)
        self.stdout.write(f"Frozen, and nobody works there: slots {in_ranges(sorted(set(chosen)))}.")

    def do_unfreeze(self, shards: ShardMap, chosen: list[int], options: dict[str, Any]) -> None:
        unfreeze(chosen, shards)
        self.stdout.write(f"Served again: slots {in_ranges(sorted(set(chosen)))}.")


ESTIMATES = {
    "postgresql": "SELECT sum(GREATEST(reltuples, 0))::bigint FROM pg_class WHERE relkind = 'r' AND oid IN "
    "(SELECT %s::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = %s::regclass)",
    "mysql": "SELECT table_rows FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name IN (%s, %s)",
}


def records(alias: str, *, exact: bool) -> int:
    """The planner's estimate, where it has one: counting reads the table."""
    connection, table = connections[alias], IdempotencyRecord._meta.db_table
    if exact or connection.vendor not in ESTIMATES:
        return IdempotencyRecord.objects.using(alias).count()
    with connection.cursor() as cursor:
        cursor.execute(ESTIMATES[connection.vendor], (table, table))
        return int(cursor.fetchone()[0] or 0)
