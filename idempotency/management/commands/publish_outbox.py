from __future__ import annotations

import signal
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from threading import Event
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import Error, close_old_connections

from idempotency.management.databases import chosen_databases, in_turn, require_same_map
from idempotency.models import OutboxMessage
from idempotency.outbox.publisher import Passed, Publisher, configured_brokers

LARGEST_BATCH = 10_000


class Command(BaseCommand):
    help = (
        "Publish the messages that wait in the outbox, of each ordering key in the order in which they were "
        "stored. Several may run at once. Exits with 0 when nothing failed, with 1 when something did."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--loop", action="store_true", help="Go on until SIGTERM or SIGINT.")
        parser.add_argument(
            "--interval",
            type=float,
            default=0.5,
            help="Seconds after which a loop that found nothing looks again (default: 0.5).",
        )
        parser.add_argument(
            "--batch-size",
            type=int,
            default=500,
            help=f"Messages that are held and marked at once, 1 to {LARGEST_BATCH} (default: 500; on SQLite "
            "50 at most).",
        )
        parser.add_argument(
            "--database",
            help="Alias of the outbox's database. By default the one that guards use; with "
            "shards, each of them in turn.",
        )

    def handle(self, **options: Any) -> None:
        databases = self.databases(options)
        require_same_map()
        publishers = {using: Publisher(using, options["batch_size"]) for using in databases}
        stop = Event()
        try:
            if options["loop"]:
                for ending in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(ending, lambda number, frame: stop.set())
                self.loop([*publishers.values()], options, stop)
            else:
                in_turn(self, databases, lambda using: self.publish_all(publishers[using], options))
        finally:
            for publisher in publishers.values():
                publisher.close()

    def databases(self, options: dict[str, Any]) -> Sequence[str]:
        size = options["batch_size"]
        if not 1 <= size <= LARGEST_BATCH:
            raise CommandError(f"--batch-size takes 1 to {LARGEST_BATCH}, not {size}.")
        if not options["interval"] > 0:
            raise CommandError(f"--interval takes a number above 0, not {options['interval']:g}.")
        databases = chosen_databases(OutboxMessage, options["database"])
        try:
            configured_brokers()
            # Not found out by the first message: whether kombu is there.
            import_module("idempotency.brokers")
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        return databases

    def publish_all(self, publisher: Publisher, options: dict[str, Any]) -> None:
        """Passes until one has published nothing: what others held in one, and what comes after that, may be
        free in the next."""
        published, has_failed = 0, False
        while True:
            passed = self.run_pass(publisher, options, Event())
            published += passed.published
            has_failed = has_failed or bool(passed.failed)
            if passed.away or not passed.published:
                break
        if options["verbosity"]:
            noun = "message" if published == 1 else "messages"
            self.stdout.write(f"{published} {noun} published from database {publisher.using!r}.")
        if passed.away:
            told = "; ".join(f"{broker!r}: {reason}" for broker, reason in passed.away.items())
            raise CommandError(f"What waits for these brokers was not published. {told}")
        if has_failed:
            raise CommandError("Some failed, and are tried again later: see the reasons above.")

    def loop(self, publishers: list[Publisher], options: dict[str, Any], stop: Event) -> None:
        while not stop.is_set():
            close_old_connections()
            published, has_failed = 0, False
            for publisher in publishers:
                try:
                    published += self.run_pass(publisher, options, stop).published
                except CommandError as error:
                    has_failed = True
                    self.stderr.write(str(error))
            if published and options["verbosity"] > 1:
                self.stdout.write(f"{published} published")
            if has_failed or not published:
                stop.wait(options["interval"])

    def run_pass(self, publisher: Publisher, options: dict[str, Any], stop: Event) -> Passed:
        try:
            passed = publisher.run(stop.is_set)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        except Error as error:
            reason = " ".join(str(error).split())
            raise CommandError(
                f"Database {publisher.using!r} failed: {reason}. Is it up, and is `migrate` done there?"
            ) from error
        for line in passed.failed if options["verbosity"] else ():
            self.stderr.write(line)
        return passed
