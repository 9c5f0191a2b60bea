"""The page on which an operator decides what became of one operation."""

from __future__ import annotations

import logging
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import label_for_field, quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency.admin.decision_form import DecisionForm
from idempotency.admin.runs import HIDDEN_RUN_FIELDS, RUN_FIELDS, attach_runs
from idempotency.admin.shards import ShardsAdminMixin, address_of, addressed, hold_slots
from idempotency.exceptions import DecisionRefused, IdempotencyError
from idempotency.leases.decisions import run_of, seen_as
from idempotency.models import IdempotencyRecord

State = IdempotencyRecord.State
FACTS = ("operation", "shown_key", "shown_state", "created_at", "expires_at", "database_time")
CHANGED = gettext_lazy("Nothing was decided: it has changed since you looked.")
logger = logging.getLogger("idempotency")


def undecidable(record: Any) -> str | None:
    """Why there is nothing to decide about a record, with ``live`` by its database's clock."""
    if record.state == State.COMPLETED:
        return _("It was done.")
    if record.state == State.RUNNING and record.live:
        return _("It is being worked on: wait until it ends, or its time is over.")
    return None


def decide(form: DecisionForm, *, user_id: int) -> None:
    """Write what was decided, and who did. The log entry commits first where it lives in another database."""
    record, logs = form.record, router.db_for_write(LogEntry)
    with transaction.atomic(using=record._state.db), transaction.atomic(using=logs):
        hold_slots([record])
        form.decide()
        message = f"Decided ({record.get_state_display()}): {form.decided}: {form.cleaned_data['reason']}"
        LogEntry.objects.log_actions(user_id, [addressed(record)], CHANGE, message, single_object=True)
        logger.warning("decided by user %s about %s: %s", user_id, record, form.decided)


class DecideMixin(ShardsAdminMixin):
    """For the records' admin: ``<address>/decide/``, and the action that leads there."""

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.decide_view)
        return [path("<str:address>/decide/", view, name=self.decide_url_name), *super().get_urls()]

    @property
    def decide_url_name(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_decide"

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("idempotency.decide_idempotencyrecord")

    @admin.action(permissions=["decide"], description=gettext_lazy("Decide what became of it"))
    def decide_record(
        self, request: HttpRequest, queryset: QuerySet[IdempotencyRecord]
    ) -> HttpResponse | None:
        found = list(queryset[:2])
        if len(found) != 1:
            self.message_user(request, _("Select one record: each is a decision."), messages.ERROR)
            return None
        return redirect(f"{self.admin_site.name}:{self.decide_url_name}", quote(address_of(found[0])))

    def decide_view(self, request: HttpRequest, address: str) -> HttpResponse:
        if not (self.has_view_permission(request) and self.has_decide_permission(request)):
            raise PermissionDenied
        record: IdempotencyRecord | None = self.row_at(request, unquote(address))
        if record is None:
            raise Http404
        attach_runs([record])
        form = DecisionForm(record, request.POST if request.method == "POST" else None)
        if request.method == "POST":
            if request.POST.get("seen") != seen_as(record):
                self.message_user(request, CHANGED, messages.WARNING)
                return redirect(request.path)
            if form.is_valid():
                return self._decide(request, form)
        return self._ask_what_became_of_it(request, record, form)

    def _decide(self, request: HttpRequest, form: DecisionForm) -> HttpResponse:
        try:
            decide(form, user_id=cast(int, request.user.pk))
        except (DecisionRefused, IdempotencyError) as refused:
            self.message_user(request, _("Nothing was decided. %s") % refused, messages.WARNING)
            return redirect(request.path)
        self.message_user(request, _("It is decided: %s.") % form.decided, messages.SUCCESS)
        change = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_change"
        return redirect(change, quote(address_of(form.record)))

    def _ask_what_became_of_it(
        self, request: HttpRequest, record: IdempotencyRecord, form: DecisionForm
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("Decide what became of it"),
            "opts": self.opts,
            "media": self.media,
            "form": form,
            "record": addressed(record),
            "facts": self._facts(request, record),
            "refusal": undecidable(record),
            "seen": seen_as(record),
        }
        return TemplateResponse(request, "admin/idempotency/idempotencyrecord/decide.html", context)

    def _facts(self, request: HttpRequest, record: IdempotencyRecord) -> list[tuple[str, Any]]:
        may_read = request.user.has_perm("idempotency.view_stored_response")
        of_run = (*RUN_FIELDS, *(HIDDEN_RUN_FIELDS if may_read else ())) if run_of(record) else ()
        return [
            (str(label_for_field(name, self.model, self)), self._fact(name, record))
            for name in (*FACTS, *of_run)
        ]

    def _fact(self, name: str, record: IdempotencyRecord) -> Any:
        method = getattr(self, name, None)
        return method(record) if method else getattr(record, name)
