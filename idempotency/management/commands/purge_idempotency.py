from __future__ import annotations

import re
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from django.utils.dateparse import parse_duration

from idempotency.management.databases import (
    Purges,
    chosen_databases,
    in_turn,
    require_nothing_moves,
    require_same_map,
)
from idempotency.models import IdempotencyRecord
from idempotency.pace import LARGEST
from idempotency.purging import Purge

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
NOUNS = {
    "tokens": "token",
    "ids": "unique id",
    "leases": "lock lease",
    "fences": "lock fence",
    "outbox": "published message",
    "failures": "failed message",
}
LONGEST_AGE = timedelta(days=36_500)


class Command(BaseCommand):
    help = (
        "Delete expired idempotency records, and one-time tokens, unique ids, leases and fences of locks, "
        "and published and failed messages that need not be remembered any longer, in short transactions "
        "that do not block live traffic. "
        "Records that are running, or whose outcome is unknown, are never touched. Exits with 0 when "
        "everything asked for is done, with 1 when not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Only count what would be done.")
        parser.add_argument(
            "--batch-size",
            type=int,
            default=LARGEST,
            help=f"Rows per transaction at most, 1 to {LARGEST} (the default). Fewer are taken where so many "
            "take long.",
        )
        parser.add_argument(
            "--max-seconds",
            type=float,
            help="Stop between two batches when this time is over. Several shards share it.",
        )
        parser.add_argument(
            "--database",
            help="Alias of the records' database. By default the one that guards use; with "
            "shards, each of them in turn.",
        )
        parser.add_argument(
            "--drop-bodies-after",
            metavar="AGE",
            help="Also drop the stored responses of live records older than this ('30m', '12h', '7d', or "
            "ISO 8601). Their operations still count as done; a retry is told 409 result-expired.",
        )
        parser.add_argument(
            "--scope",
            metavar="KIND:ID",
            help="Erase the completed records of one principal instead, for example auth.user:42. Live "
            "ones too, so a retry of their operations runs again.",
        )

    def handle(self, **options: Any) -> None:
        databases = self.databases(options)
        age = parse_age(options["drop_bodies_after"])
        scope = parse_scope(options["scope"])
        if age and scope:
            raise CommandError("--scope erases whole records: give it without --drop-bodies-after.")
        require_same_map()
        if scope:
            require_nothing_moves()
        purges = Purges(databases, options["batch_size"], options["max_seconds"])
        in_turn(self, databases, lambda using: self.work(purges.on(using), age, scope, options))
        if scope:
            # Whatever was moved meanwhile may have been found in neither place, or be left in one.
            require_same_map()
            require_nothing_moves()

    def work(
        self, purge: Purge, age: timedelta | None, scope: tuple[str, str] | None, options: dict[str, Any]
    ) -> None:
        self.progress_shown = False
        if self.stdout.isatty() and not self.quiet:
            purge.on_progress = self.show_progress
        try:
            done = run(purge, age, scope, dry_run=options["dry_run"])
        except Error as error:
            raise CommandError(failure(purge.using, error)) from error
        finally:
            self.report(purge, dry_run=options["dry_run"])
        if not done:
            raise CommandError("The time is over and rows are left: run the command again.")
        if scope and purge.counts["skipped"]:
            raise CommandError(
                "Some of the principal's rows were locked and are left: run the command again."
            )

    def databases(self, options: dict[str, Any]) -> Sequence[str]:
        size, seconds = options["batch_size"], options["max_seconds"]
        if not 1 <= size <= LARGEST:
            raise CommandError(f"--batch-size takes 1 to {LARGEST}, not {size}.")
        if seconds is not None and not seconds > 0:
            raise CommandError(f"--max-seconds takes a number above 0, not {seconds:g}.")
        self.quiet = not options["verbosity"]
        return chosen_databases(IdempotencyRecord, options["database"])

    def show_progress(self, counts: Counter[str]) -> None:
        self.stdout.write(f"\r{summary(counts)}", ending="")
        self.stdout.flush()
        self.progress_shown = True

    def report(self, purge: Purge, *, dry_run: bool) -> None:
        if self.quiet:
            return
        if self.progress_shown:
            self.stdout.write("\r", ending="")
        self.stdout.write(f"{summary(purge.counts, dry_run=dry_run)} in database {purge.using!r}.")


def run(purge: Purge, age: timedelta | None, scope: tuple[str, str] | None, *, dry_run: bool) -> bool:
    """Whether everything asked for was done."""
    if scope:
        return purge.erase(*scope, dry_run=dry_run)
    if dry_run:
        purge.counts["deleted"] = purge.expired().count()
        for change, rows, _ in purge.forgettable():
            purge.counts[change] = rows.count()
        purge.counts["dropped"] = purge.droppable(age).count() if age else 0
        return True
    return purge.delete_expired() and (age is None or purge.drop_bodies(age)) and purge.delete_forgettable()


def summary(counts: Counter[str], *, dry_run: bool = False) -> str:
    done = "to delete" if dry_run else "deleted"
    parts = [f"{counted(counts['deleted'], 'record')} {done}"]
    for change, noun in NOUNS.items():
        if counts[change]:
            parts.append(f"{counted(counts[change], noun)} {done}")
    if counts["dropped"]:
        parts.append(f"{counted(counts['dropped'], 'response')} {'to drop' if dry_run else 'dropped'}")
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} in use and left")
    if counts["unfinished"]:
        parts.append(f"{counts['unfinished']} unfinished (running or outcome unknown) and left")
    return ", ".join(parts)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def failure(using: str, error: Error) -> str:
    reason = " ".join(str(error).split())
    return f"Database {using!r} failed: {reason}. Is it up, and is `migrate` done there? Then run it again."


def parse_age(text: str | None) -> timedelta | None:
    """``30m``, ``12h``, ``7d``, or an ISO 8601 duration such as ``PT12H``."""
    if text is None:
        return None
    age = None
    with suppress(OverflowError, ValueError):
        if short := re.fullmatch(r"(\d+)([smhdw])", text, re.ASCII):
            age = timedelta(**{UNITS[short[2]]: int(short[1])})
        elif text.startswith("P"):
            age = parse_duration(text)
    if age is None or not timedelta(0) < age <= LONGEST_AGE:
        raise CommandError(
            f"--drop-bodies-after takes an age such as 30m, 12h, 7d or PT12H, up to 100 years, not {text!r}."
        )
    return age


def parse_scope(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    kind, colon, identifier = text.partition(":")
    if not kind or not colon:
        raise CommandError(
            f"--scope takes KIND:ID, such as auth.user:42, or scope:acme for a text; not {text!r}."
        )
    with suppress(LookupError, ValueError):
        # Records name a model in lower case.
        kind = apps.get_model(kind)._meta.label_lower
    return kind, identifier
