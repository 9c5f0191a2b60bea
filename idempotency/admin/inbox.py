"""The inbox: what became of the messages of consumers, and those that failed."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timesince import timesince
from django.utils.translation import gettext_lazy as _

from idempotency.admin.filters import AgeFilter, DecisionFilter
from idempotency.admin.logs import LogAdmin
from idempotency.admin.readable import preformatted
from idempotency.admin.records import IdempotencyRecordAdmin
from idempotency.admin.shards import ShardsAdminMixin
from idempotency.database import DatabaseNow
from idempotency.models import FailedMessage, IdempotencyRecord, InboxMessage

LISTED_ERROR = 80


@admin.register(InboxMessage)
class InboxMessageAdmin(IdempotencyRecordAdmin):
    """The records of consumers, as the records' own page has them: unknown ones are decided here too."""

    list_filter = ("state", DecisionFilter, AgeFilter)
    search_help_text = cast(str, _("The exact business id."))
    # By its own name, which a proxy's is not.
    change_form_template = "admin/idempotency/idempotencyrecord/change_form.html"

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        return ("consumer", "listed_key", "shown_state", "age", "attempts", "listed_error")

    def get_queryset(self, request: HttpRequest) -> QuerySet[IdempotencyRecord]:
        failure = FailedMessage.objects.filter(key_digest=OuterRef("key_digest"), scope=OuterRef("scope"))
        return (
            super()
            .get_queryset(request)
            .annotate(
                failures=Subquery(failure.values("attempts")[:1]),
                last_error=Subquery(failure.values("last_error")[:1]),
            )
        )

    def get_fieldsets(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> Any:
        (__, identity), *others = super().get_fieldsets(request, obj)
        shown = [name for name in identity["fields"] if name != "operation"]
        failures = (_("Failures"), {"fields": ("attempts", "shown_error")})
        return [(None, {"fields": ("consumer", *shown)}), failures, *others]

    def get_readonly_fields(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> Any:
        own = ("consumer", "age", "attempts", "shown_error")
        return (*super().get_readonly_fields(request, obj), *own)

    @admin.display(description=_("consumer"))
    def consumer(self, message: IdempotencyRecord) -> str:
        return message.operation

    @admin.display(description=_("business id"))
    def listed_key(self, message: IdempotencyRecord) -> str:
        return Truncator(message.key).chars(36)

    @admin.display(description=_("business id"))
    def shown_key(self, message: IdempotencyRecord) -> str:
        return message.key

    @admin.display(description=_("age"))
    def age(self, message: Any) -> str:
        return timesince(message.created_at, message.now, depth=1)

    @admin.display(description=_("failed attempts"))
    def attempts(self, message: Any) -> int:
        return int(message.failures or 0)

    @admin.display(description=_("last error"))
    def listed_error(self, message: Any) -> str:
        return Truncator(message.last_error or "").chars(LISTED_ERROR)

    @admin.display(description=_("last error"))
    def shown_error(self, message: Any) -> SafeString | str:
        return preformatted(message.last_error) if message.last_error else ""


class DeadFilter(admin.SimpleListFilter):
    title = _("given up")
    parameter_name = "dead"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Dead letters")), ("no", _("Tried again"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        return queryset.filter(dead_at__isnull=self.value() == "no")


@admin.register(FailedMessage)
class FailedMessageAdmin(LogAdmin):
    """Deleting one forgets how often it failed: where it comes again, its attempts are counted anew."""

    list_display = ("consumer", "listed_key", "shown_state", "age", "attempts", "listed_error")
    list_filter = (DeadFilter,)
    search_fields = ("key",)
    search_help_text = _("The exact business id.")
    readonly_fields = ("age", "shown_error")
    home = ShardsAdminMixin.home

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(now=DatabaseNow())
        return rows

    def get_list_select_related(self, request: HttpRequest) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (queryset.with_key(search_term) if search_term else queryset), False  # type: ignore[attr-defined]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("consumer", "key", "attempts", "first_failed_at", "last_failed_at", "dead_at", "shown_error")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    @admin.display(description=_("business id"))
    def listed_key(self, message: FailedMessage) -> str:
        return Truncator(message.key).chars(36)

    @admin.display(description=_("state"))
    def shown_state(self, message: FailedMessage) -> str:
        return str(_("tried again") if message.dead_at is None else _("dead letter"))

    @admin.display(description=_("age"))
    def age(self, message: Any) -> str:
        return timesince(message.first_failed_at, message.now, depth=1)

    @admin.display(description=_("last error"))
    def listed_error(self, message: FailedMessage) -> str:
        return Truncator(message.last_error).chars(LISTED_ERROR)

    @admin.display(description=_("last error"))
    def shown_error(self, message: FailedMessage) -> SafeString:
        return preformatted(message.last_error)
