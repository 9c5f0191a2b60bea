from __future__ import annotations

import signal
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.utils.module_loading import autodiscover_modules

from idempotency import conf
from idempotency.consumers.consumer import Consumer, registered, registered_names
from idempotency.management.databases import require_same_map


class Command(BaseCommand):
    help = (
        "Handle the messages of consumers, one after the other, until SIGTERM or SIGINT: then the message in "
        "hand is finished, and the others go back to the broker. Start as many as are needed. Consumers are "
        "found in each app's module `consumers`; IDEMPOTENCY_CONSUMERS says where their messages come from."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="Name of a consumer.")
        parser.add_argument(
            "--send-dead-letters-again",
            action="store_true",
            help="First put the messages that were given up back into their queues, to be tried anew.",
        )

    def handle(self, *, names: list[str], **options: Any) -> None:
        autodiscover_modules("consumers")
        consumers = [self.consumer(name) for name in dict.fromkeys(names)]
        if not consumers:
            raise CommandError(f"Say whose messages: {known()}.")
        try:
            # Imports kombu, which not every project has.
            from idempotency.consumers.worker import Stopped, Worker

            worker = Worker(consumers)
        except (ImproperlyConfigured, ValueError) as error:
            raise CommandError(str(error)) from error
        require_same_map()
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, lambda number, frame: worker.stop())
        if options["send_dead_letters_again"]:
            for source in worker.sources:
                try:
                    number = worker.dead_letters.send_again(source.queue)
                except worker.dead_letters.errors as error:
                    raise CommandError(
                        f"Not all dead letters of {source.consumer.name} were sent again "
                        f"({type(error).__name__}: {error}): those that were not are where they were."
                    ) from error
                self.stdout.write(f"{number} dead letters of {source.consumer.name} are to be tried anew.")
        if options["verbosity"]:
            queues = ", ".join(source.queue for source in worker.sources)
            self.stdout.write(f"Handling messages of {queues}.")
            self.stdout.flush()
        try:
            worker.run(safety_interval=SAFETY_SECONDS)
        except Stopped:
            pass
        finally:
            worker.close()
        if options["verbosity"]:
            self.stdout.write("Stopped. What was not handled is with the broker.")

    def consumer(self, name: str) -> Consumer:
        if (found := registered(name)) is None:
            raise CommandError(f"There is no consumer {name!r}: {known()}.")
        conf.consumer(name)
        return found


# Between two looks for a signal to stop, and for what is to be tried again.
SAFETY_SECONDS = 0.2


def known() -> str:
    if names := registered_names():
        return f"give one or more of {', '.join(names)}"
    return "no app's module `consumers` has an @idempotent_consumer"
