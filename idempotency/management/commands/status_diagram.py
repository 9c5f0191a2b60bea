from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError

from idempotency.status import StatusMixin
from idempotency.status.diagram import mermaid


class Command(BaseCommand):
    help = "Print the transitions of a model's status as a Mermaid state diagram."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", metavar="app.Model", help="A model with StatusMixin.")

    def handle(self, *, model: str, **options: Any) -> None:
        try:
            found = apps.get_model(model)
        except (LookupError, ValueError) as error:
            raise CommandError(f"There is no model {model!r}. {known()}") from error
        if not issubclass(found, StatusMixin):
            raise CommandError(f"{found._meta.label} has no StatusMixin. {known()}")
        self.stdout.write(mermaid(found), ending="")


def known() -> str:
    labels = [model._meta.label for model in apps.get_models() if issubclass(model, StatusMixin)]
    return f"Models that have it: {', '.join(labels) or 'none'}."
