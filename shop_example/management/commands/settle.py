from __future__ import annotations

from argparse import ArgumentParser
from datetime import date, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.timezone import localdate

from idempotency.exceptions import IdempotencyError
from shop_example import settlement

GUARDS = {
    "first-wins": settlement.settle,
    "plain-lock": settlement.book_under_a_lock,
    "none": settlement.book,
}


class Command(BaseCommand):
    help = "Book what the makers of products get for one day's sales. Every machine's timer may start it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "day", nargs="?", type=date.fromisoformat, help="2026-12-31; by default yesterday"
        )
        parser.add_argument(
            "--guard",
            choices=GUARDS,
            default="first-wins",
            help="What keeps it from being booked again; to see what the other two do, not to use them.",
        )

    def handle(self, *, day: date | None, guard: str, **options: Any) -> None:
        day = day or localdate() - timedelta(days=1)
        try:
            number = GUARDS[guard](day)
        except IdempotencyError as error:
            raise CommandError(error.detail) from error
        done = "nothing to do, another run has it" if number is None else f"payouts booked: {number}"
        self.stdout.write(f"{day}: {done}")
