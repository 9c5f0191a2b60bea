"""Ways through a large table that no page pays for with a scan."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.models import IdempotencyRecord, RecordQuerySet

MOST_COUNTED = 10_000
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)


class AgeFilter(admin.SimpleListFilter):
    """By the database's clock, which is the one that records are made and expire by."""

    title = _("age")
    parameter_name = "age"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("hour", _("Last hour")),
            ("day", _("Last day")),
            ("week", _("Last week")),
            ("older", _("Older than a week")),
            ("expired", _("Expired")),
        ]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord]
    ) -> QuerySet[IdempotencyRecord]:
        value = self.value()
        if value == "expired":
            return queryset.filter(expires_at__lte=DatabaseNow())
        if value == "older":
            return queryset.filter(created_at__lt=DatabaseNow() - WEEK)
        if span := {"hour": HOUR, "day": DAY, "week": WEEK}.get(value or ""):
            return queryset.filter(created_at__gte=DatabaseNow() - span)
        return queryset


class DecisionFilter(admin.SimpleListFilter):
    """What nobody works on and was not done, as far as anybody knows. Served by the index of states."""

    title = _("decision")
    parameter_name = "decision"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("needed", _("Needs a decision"))]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord]
    ) -> QuerySet[IdempotencyRecord]:
        return cast(RecordQuerySet, queryset).unfinished() if self.value() == "needed" else queryset


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs only
    """Counts up to a limit and lists no further: the newest come first, filters reach the others."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return min(MOST_COUNTED, int(rows.order_by().values("pk")[:MOST_COUNTED].count()))
