"""The logs of statuses and amounts, and the events that wait: to look at. Nothing here edits one."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import router
from django.db.models import BooleanField, Case, QuerySet, Value, When
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from idempotency.admin.filters import BoundedPaginator
from idempotency.admin.shards import ShardsAdminMixin
from idempotency.database import DatabaseNow
from idempotency.models import LedgerEntry, ParkedEvent, StatusTransition
from idempotency.models.subjects import object_digest
from idempotency.status import StatusMixin


class LogAdmin(ShardsAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Read-only, newest first, and searched by the exact object alone: no page scans a large table."""

    list_per_page = 50
    list_select_related = ("content_type",)
    sortable_by = ()
    ordering = ("-pk",)
    search_fields = ("object_id",)
    search_help_text = _("The exact primary key of an object.")
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).using(self.database(request))
        return rows

    def home(self) -> str:
        """With the objects, wherever guards have their records."""
        return router.db_for_write(self.model)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (queryset.filter(object_digest=object_digest(search_term)) if search_term else queryset), False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = [field.name for field in self.model._meta.fields if not field.name.endswith("digest")]
        return [name for name in fields if name != "id"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(StatusTransition)
class StatusTransitionAdmin(LogAdmin):
    list_display = ("content_type", "object_id", "from_status", "to_status", "event_id", "by", "at")


@admin.register(LedgerEntry)
class LedgerEntryAdmin(LogAdmin):
    list_display = ("content_type", "object_id", "field", "amount", "value", "operation_id", "by", "at")


class OverdueFilter(admin.SimpleListFilter):
    title = _("overdue")
    parameter_name = "overdue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Overdue")), ("no", _("Within the limit"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "yes":
            return queryset.filter(report_at__lte=DatabaseNow())
        return queryset.filter(report_at__gt=DatabaseNow()) if self.value() == "no" else queryset


@admin.register(ParkedEvent)
class ParkedEventAdmin(LogAdmin):
    """Deleting one means that its event will not be applied, unless it is sent again. Django asks, and
    writes it to the log of admin actions."""

    list_display = ("content_type", "object_id", "now", "to_status", "event_id", "parked_at", "is_overdue")
    list_filter = (OverdueFilter,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        overdue = When(report_at__lte=DatabaseNow(), then=Value(True))
        late = Case(overdue, default=Value(False), output_field=BooleanField())
        rows: QuerySet[Any] = super().get_queryset(request).annotate(late=late)
        return rows

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    @admin.display(description=_("status now"))
    def now(self, event: ParkedEvent) -> str:
        subject = event.subject
        return str(subject.current_status) if isinstance(subject, StatusMixin) else ""

    @admin.display(description=_("overdue"), boolean=True)
    def is_overdue(self, event: Any) -> bool:
        return bool(event.late)
