from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, router
from django.db.models import BooleanField, Case, Value, When

from idempotency.database import DatabaseNow
from idempotency.management.databases import chosen_databases, in_turn
from idempotency.models import ParkedEvent
from idempotency.shards.maps import shard_map
from idempotency.status import StatusMixin


class Command(BaseCommand):
    help = (
        "List events that came too early and still wait for the change that they need. Exits with 1 when "
        "some have waited for longer than their model's limit, so that cron or a monitor can tell."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--overdue", action="store_true", help="Leave out those within their limit.")
        parser.add_argument(
            "--database",
            help="Alias; by default where the routers write these events; with shards, each of them in turn.",
        )

    def handle(self, *, overdue: bool, database: str | None, **options: Any) -> None:
        if shard_map() is None:
            database = database or router.db_for_write(ParkedEvent)
        databases = chosen_databases(ParkedEvent, database)
        in_turn(self, databases, lambda using: self.list_events(using, overdue=overdue))

    def list_events(self, using: str, *, overdue: bool) -> None:
        late = Case(
            When(report_at__lte=DatabaseNow(), then=Value(True)),
            default=Value(False),
            output_field=BooleanField(),
        )
        rows = ParkedEvent.objects.using(using).annotate(is_overdue=late).order_by("pk")
        waiting = number_overdue = 0
        try:
            for event in (rows.filter(is_overdue=True) if overdue else rows).iterator():
                waiting += 1
                number_overdue += event.is_overdue
                self.stdout.write(line(event))
        except Error as error:
            reason = " ".join(str(error).split())
            raise CommandError(
                f"Database {using!r} failed: {reason}. Is it up, and is `migrate` done there?"
            ) from error
        self.stdout.write(f"{waiting} waiting, {number_overdue} overdue in database {using!r}.")
        if number_overdue:
            raise CommandError(
                "Overdue events wait for something that did not come: look for it, or delete them in the "
                "admin."
            )


def line(event: Any) -> str:
    since = event.parked_at.strftime("%Y-%m-%d %H:%M:%S")
    model, subject = event.subject_model, event.subject
    about = f"{model._meta.label if model else event.content_type_id} {event.object_id}"
    now = f"is {subject.current_status}" if isinstance(subject, StatusMixin) else "is gone"
    if isinstance(subject, StatusMixin) and not can_come(subject, event.to_status):
        now += ", never again to be changed so"
    late = "OVERDUE " if event.is_overdue else ""
    return f"{late}{since} {about} {now}: {event.event_id} to {event.to_status}"


def can_come(subject: StatusMixin, to_status: str) -> bool:
    graph, status = subject.status_graph(), subject.current_status
    ways = [
        source for target in graph.statuses if str(target) == to_status for source in graph.sources(target)
    ]
    return any(source == status or graph.leads_to(status, source) for source in ways)
