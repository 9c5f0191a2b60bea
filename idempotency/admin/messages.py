"""The outbox: to look at what waits, to hurry it, and to discard it."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from idempotency import conf
from idempotency.admin.logs import LogAdmin
from idempotency.admin.readable import as_json, decoded, is_text, preformatted, shortened
from idempotency.admin.records import HIDDEN, may_read
from idempotency.admin.shards import ShardsAdminMixin
from idempotency.database import DatabaseNow
from idempotency.models import OutboxMessage, OutboxQuerySet

State = OutboxMessage.State
IDENTITY = ("event_id", "broker", "exchange", "routing_key", "ordering_key")
LIFE = ("state", "created_at", "age", "attempts", "shown_error", "try_at", "published_at")
CONTENT = ("content_type", "content_encoding", "shown_headers", "shown_body")


class BrokerFilter(admin.SimpleListFilter):
    """By what the settings have: the table is not asked."""

    title = gettext_lazy("broker")
    parameter_name = "broker"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(alias, alias) for alias in conf.aliases("IDEMPOTENCY_BROKERS")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(broker=self.value()) if self.value() else queryset


@admin.register(OutboxMessage)
class OutboxMessageAdmin(LogAdmin):
    """Read-only. Deleting one that waits means that it will never be published; those of its ordering key
    that come after it go on without it."""

    list_display = (
        "event_id",
        "broker",
        "exchange",
        "routing_key",
        "state",
        "age",
        "attempts",
        "listed_error",
    )
    list_filter = ("state", BrokerFilter)
    search_fields = ("event_id",)
    search_help_text = gettext_lazy("The exact event id.")
    actions = ("try_again",)
    readonly_fields = ("age", "shown_error", "shown_headers", "shown_body", "content_hidden")
    home = ShardsAdminMixin.home

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = (
            super().get_queryset(request).annotate(now=DatabaseNow()).defer("headers", "body")
        )
        return rows

    def get_list_select_related(self, request: HttpRequest) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (queryset.filter(event_id=search_term) if search_term else queryset), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        # Any other, such as ?body__startswith=, would answer questions about what is hidden.
        return lookup in ("state__exact", BrokerFilter.parameter_name) or self.is_of_shards(lookup)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        content = CONTENT if may_read(request) else ("content_hidden",)
        return [
            (None, {"fields": IDENTITY}),
            (_("Life"), {"fields": LIFE}),
            (_("Content"), {"fields": content}),
        ]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for __, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may_delete = admin.ModelAdmin.has_delete_permission(self, request, obj)
        return may_delete and (obj is None or obj.state != State.PUBLISHED)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_queryset(request, self.get_queryset(request).using(obj._state.db).filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Those that still wait once they are held: a publisher may be at work on them."""
        chosen = list(queryset.values_list("pk", flat=True))
        rows = outbox(queryset.db).filter(pk__in=chosen)
        with transaction.atomic(using=queryset.db):
            waiting = list(rows.waiting().select_for_update().values_list("pk", flat=True))
            rows.filter(pk__in=waiting).delete()
        if late := len(chosen) - len(waiting):
            text = ngettext("%d was published meanwhile.", "%d were published meanwhile.", late) % late
            self.message_user(request, text, messages.WARNING)

    def has_hurry_permission(self, request: HttpRequest) -> bool:
        """Whoever may discard a message may also have it tried again."""
        return self.has_delete_permission(request)

    @admin.action(permissions=["hurry"], description=gettext_lazy("Try again now"))
    def try_again(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        chosen = list(queryset.values_list("pk", flat=True))
        failed = outbox(queryset.db).filter(pk__in=chosen, state=State.FAILED)
        count = failed.update(state=State.WAITING, try_at=None)
        text = ngettext("%d message is tried again.", "%d messages are tried again.", count) % count
        self.message_user(request, text, messages.SUCCESS if count else messages.WARNING)

    @admin.display(description=gettext_lazy("age"))
    def age(self, message: Any) -> str:
        return timesince(message.created_at, message.now)

    @admin.display(description=gettext_lazy("last error"), empty_value="-")
    def listed_error(self, message: OutboxMessage) -> str | None:
        return message.last_error[:80] or None

    @admin.display(description=gettext_lazy("last error"), empty_value="-")
    def shown_error(self, message: OutboxMessage) -> SafeString | None:
        return preformatted(message.last_error) if message.last_error else None

    @admin.display(description=gettext_lazy("headers"))
    def shown_headers(self, message: OutboxMessage) -> SafeString:
        return preformatted(as_json(json.loads(message.headers)))

    @admin.display(description=gettext_lazy("body"))
    def shown_body(self, message: OutboxMessage) -> SafeString:
        body = bytes(message.body)
        if not is_text(message.content_type):
            return preformatted(_("%d bytes") % len(body))
        return preformatted(shortened(decoded(body, message.content_type, message.content_encoding)))

    @admin.display(description=gettext_lazy("headers and body"))
    def content_hidden(self, message: OutboxMessage) -> str:
        return str(HIDDEN)


def outbox(using: str) -> OutboxQuerySet:
    rows: OutboxQuerySet = OutboxMessage.objects.using(using)
    return rows
