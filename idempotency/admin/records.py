from __future__ import annotations

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import BooleanField, Case, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from idempotency.admin.decide import DecideMixin, undecidable
from idempotency.admin.filters import MOST_COUNTED, AgeFilter, BoundedPaginator, DecisionFilter
from idempotency.admin.readable import moment, readable_body, readable_headers
from idempotency.admin.release import ReleaseForm, effects_of, refusal, release
from idempotency.admin.runs import HIDDEN_RUN_FIELDS, RUN_FIELDS, RunDisplayMixin, attach_runs
from idempotency.admin.shards import ShardsAdminMixin, address_of
from idempotency.database import DatabaseNow
from idempotency.exceptions import DecisionRefused, IdempotencyError
from idempotency.leases.decisions import run_of, seen_as
from idempotency.models import IdempotencyRecord, RecordQuerySet

MOST_RELEASED = 100
RESPONSE_FIELDS = ("status", "response_headers", "response_body")
HIDDEN = gettext_lazy("To read it you need the permission idempotency.view_stored_response.")


def may_read(request: HttpRequest) -> bool:
    return request.user.has_perm("idempotency.view_stored_response")


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(DecideMixin, RunDisplayMixin, ShardsAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs only
    """Read-only but for releasing and deciding. No page reads a body that it does not show, nor scans."""

    list_display = ("operation", "listed_key", "shown_state", "is_live", "created_at")
    list_filter = ("state", DecisionFilter, AgeFilter)
    list_per_page = 50
    sortable_by = ()
    ordering = ("-pk",)
    search_fields = ("key",)
    search_help_text = gettext_lazy("The exact key. Lists the newest %d records that match.") % MOST_COUNTED
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    actions = ("decide_record", "release_records")
    readonly_fields = (
        *("shown_key", "key_hex", "scope_hex", "principal_hex", "shown_state", "is_live", "database_time"),
        *("response_headers", "response_body", "response_hidden", "run_hidden"),
        *(*RUN_FIELDS, *HIDDEN_RUN_FIELDS),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[IdempotencyRecord]:
        live = When(expires_at__gt=DatabaseNow(), then=Value(True))
        rows: QuerySet[IdempotencyRecord] = super().get_queryset(request).using(self.database(request))
        rows = rows.annotate(live=Case(live, default=Value(False), output_field=BooleanField()))
        return rows.annotate(now=DatabaseNow()).defer("headers", "body")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord], search_term: str
    ) -> tuple[QuerySet[IdempotencyRecord], bool]:
        return (cast(RecordQuerySet, queryset).with_key(search_term) if search_term else queryset), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        # Any other, such as ?body__startswith=, would answer questions about what is hidden.
        own = ("state__exact", AgeFilter.parameter_name, DecisionFilter.parameter_name)
        return lookup in own or self.is_of_shards(lookup)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        record = super().get_object(request, object_id, from_field)
        if record is not None:
            attach_runs([record], hide=not may_read(request))
        return record

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        record = kwargs["obj"]
        context["address"] = address_of(record)
        context["may_decide"] = self.has_decide_permission(request) and not undecidable(record)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> Any:
        identity = ("operation", "shown_key", "key_hex", "scope_hex", "principal_hex")
        life = ("shown_state", "is_live", "created_at", "expires_at", "database_time")
        may_see = may_read(request)
        fieldsets: list[Any] = [(None, {"fields": identity}), (_("Life"), {"fields": life})]
        if obj and run_of(obj):
            hidden = HIDDEN_RUN_FIELDS if may_see else ("run_hidden",)
            fieldsets.append((_("What it has done so far"), {"fields": (*RUN_FIELDS, *hidden)}))
        response = RESPONSE_FIELDS if may_see else ("response_hidden",)
        return [*fieldsets, (_("Stored response"), {"fields": response})]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: IdempotencyRecord | None = None) -> bool:
        return False

    def has_release_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("idempotency.release_idempotencyrecord")

    @admin.display(description=gettext_lazy("key"))
    def shown_key(self, record: IdempotencyRecord) -> str:
        return record.key or _("anonymous %s") % bytes(record.key_digest).hex()[:12]

    @admin.display(description=gettext_lazy("key"))
    def listed_key(self, record: IdempotencyRecord) -> str:
        return Truncator(self.shown_key(record)).chars(22)

    @admin.display(description=gettext_lazy("key, digest"))
    def key_hex(self, record: IdempotencyRecord) -> str:
        return bytes(record.key_digest).hex()

    @admin.display(description=gettext_lazy("scope, digest"))
    def scope_hex(self, record: IdempotencyRecord) -> str:
        return bytes(record.scope).hex()

    @admin.display(description=gettext_lazy("principal, digest"))
    def principal_hex(self, record: IdempotencyRecord) -> str:
        return bytes(record.principal).hex()

    @admin.display(description=gettext_lazy("state"))
    def shown_state(self, record: Any) -> str:
        is_abandoned = record.state == IdempotencyRecord.State.RUNNING and not record.live
        return _("abandoned") if is_abandoned else record.get_state_display()

    @admin.display(description=gettext_lazy("live"), boolean=True)
    def is_live(self, record: Any) -> bool:
        return bool(record.live)

    @admin.display(description=gettext_lazy("database's time now"))
    def database_time(self, record: Any) -> str:
        return moment(record.now)

    @admin.display(description=gettext_lazy("headers"))
    def response_headers(self, record: IdempotencyRecord) -> SafeString:
        return readable_headers(record.response)

    @admin.display(description=gettext_lazy("body"))
    def response_body(self, record: IdempotencyRecord) -> SafeString:
        return readable_body(record.response)

    @admin.display(description=gettext_lazy("response"))
    def response_hidden(self, record: IdempotencyRecord) -> str:
        return str(HIDDEN)

    @admin.display(description=gettext_lazy("arguments and steps"))
    def run_hidden(self, record: IdempotencyRecord) -> str:
        return str(HIDDEN)

    @admin.action(
        permissions=["release"],
        description=gettext_lazy("Release so that the operation may run again"),
    )
    def release_records(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord]
    ) -> HttpResponse | None:
        records = list(queryset[: MOST_RELEASED + 1])
        if len(records) > MOST_RELEASED:
            text = _("Select %d records at most: each is a decision.") % MOST_RELEASED
            self.message_user(request, text, messages.ERROR)
            return None
        form = ReleaseForm(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            self._release(request, queryset, form.cleaned_data["reason"])
            return None
        return self._ask(request, records, form)

    def _ask(self, request: HttpRequest, records: list[IdempotencyRecord], form: ReleaseForm) -> HttpResponse:
        attach_runs(records)
        rows = [
            (record, self.listed_key(record), self.shown_state(record), effects_of(record), refusal(record))
            for record in records
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Release operations"),
            "opts": self.opts,
            "media": self.media,
            "form": form,
            "records": rows,
            "possible": [(record, seen_as(record)) for record in records if not refusal(record)],
            "have_effects": any(effects for *__, effects, refused in rows if not refused),
            "checkbox": ACTION_CHECKBOX_NAME,
            "list": request.get_full_path(),
        }
        return TemplateResponse(request, "admin/idempotency/idempotencyrecord/release.html", context)

    def _release(self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord], reason: str) -> None:
        shown = [text.partition(":") for text in request.POST.getlist("seen")]
        seen = {int(pk): look for pk, __, look in shown if pk.isdecimal()}
        try:
            outcome = release(queryset, seen, user_id=cast(int, request.user.pk), reason=reason)
        except (DecisionRefused, IdempotencyError) as refused:
            self.message_user(request, _("Nothing was released. %s") % refused, messages.WARNING)
            return
        if count := len(outcome.released):
            text = ngettext("%d operation may run again.", "%d operations may run again.", count) % count
            self.message_user(request, text, messages.SUCCESS)
        for record, why in outcome.refused.items():
            self.message_user(
                request,
                _("%(record)s was not released. %(why)s") % {"record": record, "why": why},
                messages.WARNING,
            )
