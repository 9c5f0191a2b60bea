from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections

from idempotency import conf
from idempotency.management.databases import chosen_databases, in_turn
from idempotency.models import IdempotencyRecord
from idempotency.partitions.conversion import CannotConvert, convert
from idempotency.partitions.locked import NeverFree, Patience
from idempotency.partitions.rotation import NotPartitioned, Rotation
from idempotency.records.base import TABLE


class Command(BaseCommand):
    help = (
        "Create the partitions of the record table for the periods to come, and drop those of the past whose "
        "records have all expired; on PostgreSQL, as IDEMPOTENCY_PARTITIONS has it. Live traffic waits for "
        "no longer than --lock-timeout behind an attempt. Exits with 1 when something could not be done."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be done.")
        parser.add_argument(
            "--convert",
            action="store_true",
            help="Give a table partitions that has none. It is locked while two indexes are built.",
        )
        parser.add_argument(
            "--database", help="Alias of the records' database. By default the one that guards use."
        )
        parser.add_argument(
            "--lock-timeout", type=int, default=100, help="Milliseconds to wait for the table (default: 100)."
        )
        parser.add_argument(
            "--attempts", type=int, default=30, help="How often to try to lock the table (default: 30)."
        )
        parser.add_argument(
            "--longest",
            type=float,
            default=5.0,
            help="Seconds that a statement may take under the lock (default: 5; --convert takes as it may).",
        )

    def handle(self, **options: Any) -> None:
        databases = chosen_databases(IdempotencyRecord, options["database"])
        in_turn(self, databases, lambda using: self.work(using, options))

    def work(self, using: str, options: dict[str, Any]) -> None:
        patience = self.patience(using, options)
        try:
            if options["convert"]:
                return self.convert(patience, options)
            return self.rotate(Rotation(patience, dry_run=options["dry_run"]), options)
        except NotPartitioned:
            raise CommandError(
                f"{TABLE} in {using!r} has no partitions. --convert gives it some: once every process has "
                "IDEMPOTENCY_PARTITIONS, and at a quiet time."
            ) from None
        except (ImproperlyConfigured, CannotConvert) as error:
            raise CommandError(f"{using!r}: {error}") from error
        except Error as error:
            reason = " ".join(str(error).split())
            raise CommandError(f"Database {using!r} failed: {reason}. Nothing was done by halves.") from error

    def patience(self, using: str, options: dict[str, Any]) -> Patience:
        if connections[using].vendor != "postgresql":
            raise CommandError(
                f"{using!r} is {connections[using].display_name}: only PostgreSQL has partitions here."
            )
        for name in ("lock_timeout", "attempts", "longest"):
            if not options[name] > 0:
                raise CommandError(
                    f"--{name.replace('_', '-')} takes a number above 0, not {options[name]:g}."
                )
        return Patience(using, options["lock_timeout"], options["longest"], options["attempts"])

    def convert(self, patience: Patience, options: dict[str, Any]) -> None:
        partitions = conf.partitions()
        if partitions is None:
            raise ImproperlyConfigured("IDEMPOTENCY_PARTITIONS is not set.")
        if options["dry_run"]:
            raise CommandError("--convert has no --dry-run: it is done as a whole, or not at all.")
        patience.longest = 0
        try:
            patience.change(
                lambda cursor: convert(cursor, partitions["PERIOD"], partitions["AHEAD"]),
                f"{TABLE} IN ACCESS EXCLUSIVE MODE",
            )
        except NeverFree as error:
            raise CommandError(f"Not converted: {error}. Run it again at a quiet time.") from error
        if options["verbosity"]:
            self.stdout.write(f"{TABLE} in {patience.using!r} has partitions.")

    def rotate(self, rotation: Rotation, options: dict[str, Any]) -> None:
        failed = False
        for done in rotation.run():
            failed |= done.failed
            if done.failed:
                self.stderr.write(done.text)
            elif options["verbosity"]:
                self.stdout.write(done.text)
        if failed:
            raise CommandError("Not everything could be done, and nothing by halves: run the command again.")
