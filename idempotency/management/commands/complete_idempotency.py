from __future__ import annotations

import signal
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from threading import Event
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, close_old_connections

from idempotency.leases.completing import Completer, Outcome, Treated, load_operations
from idempotency.management.databases import chosen_databases, in_turn, require_same_map
from idempotency.models import IdempotencyRecord

LARGEST_BATCH = 10_000
WOULD = {
    Outcome.DONE: "to go on with",
    Outcome.FREED: "to free",
    Outcome.UNKNOWN: "unknown",
    Outcome.WAITS: "waiting",
}


class Command(BaseCommand):
    help = (
        "Go on with operations that were abandoned, from their last points: ask what became of calls that "
        "broke, where somebody can be asked, and list with reasons what cannot be gone on with. Several may "
        "run at once. Exits with 0 when nothing failed, with 1 when something did."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be done.")
        parser.add_argument("--loop", action="store_true", help="Go on until SIGTERM or SIGINT.")
        parser.add_argument(
            "--interval", type=float, default=10, help="Seconds between two passes of a loop (default: 10)."
        )
        parser.add_argument(
            "--batch-size",
            type=int,
            default=100,
            help=f"Records that are read at once, 1 to {LARGEST_BATCH} (default: 100).",
        )
        parser.add_argument(
            "--database",
            help="Alias of the records' database. By default the one that guards use; with "
            "shards, each of them in turn.",
        )

    def handle(self, **options: Any) -> None:
        databases = self.databases(options)
        require_same_map()
        load_operations()
        if not options["loop"]:
            in_turn(self, databases, lambda using: self.complete_once(using, options))
            return
        stop = Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, lambda number, frame: stop.set())
        while not stop.is_set():
            close_old_connections()
            for using in databases:
                if stop.is_set():
                    break
                try:
                    self.complete(using, options, stop)
                except CommandError as error:
                    self.stderr.write(str(error))
            stop.wait(options["interval"])

    def databases(self, options: dict[str, Any]) -> Sequence[str]:
        size = options["batch_size"]
        if not 1 <= size <= LARGEST_BATCH:
            raise CommandError(f"--batch-size takes 1 to {LARGEST_BATCH}, not {size}.")
        if not options["interval"] > 0:
            raise CommandError(f"--interval takes a number above 0, not {options['interval']:g}.")
        if options["loop"] and options["dry_run"]:
            raise CommandError("--dry-run says once what would be done: give it without --loop.")
        return chosen_databases(IdempotencyRecord, options["database"])

    def complete_once(self, using: str, options: dict[str, Any]) -> None:
        if self.complete(using, options)[Outcome.FAILED]:
            raise CommandError("Some failed, and are tried again the next time: see the reasons above.")

    def complete(self, using: str, options: dict[str, Any], stop: Event | None = None) -> Counter[Outcome]:
        completer = Completer(using, batch_size=options["batch_size"])
        counts: Counter[Outcome] = Counter()
        try:
            for treated in completer.run(dry_run=options["dry_run"]):
                counts[treated.outcome] += 1
                self.tell(treated, options)
                if stop and stop.is_set():
                    break
        except Error as error:
            reason = " ".join(str(error).split())
            raise CommandError(
                f"Database {completer.using!r} failed: {reason}. Is it up, and is `migrate` done there?"
            ) from error
        if options["verbosity"] and (counts or not options["loop"]):
            self.stdout.write(f"{summary(counts, options)} in database {completer.using!r}.")
        return counts

    def tell(self, treated: Treated, options: dict[str, Any]) -> None:
        if not options["verbosity"]:
            return
        names = WOULD if options["dry_run"] else {}
        said = names.get(treated.outcome, treated.outcome.value)
        reason = f": {treated.reason}" if treated.reason else ""
        self.stdout.write(f"{treated.record} (record {treated.record.pk}) {said}{reason}")


def summary(counts: Counter[Outcome], options: dict[str, Any]) -> str:
    if not counts:
        return "Nothing was abandoned"
    names = WOULD if options["dry_run"] else {}
    return ", ".join(f"{counts[o]} {names.get(o, o.value)}" for o in Outcome if counts[o])
