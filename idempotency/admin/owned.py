"""For the admin of a project's own models: what it may not edit, and what may become of a status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.admin import display
from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency.admin.readable import moment
from idempotency.status import StatusMixin
from idempotency.status.diagram import mermaid

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

    Base = ModelAdmin[Any]
else:
    Base = object

LATEST = 50


class OwnedColumnsAdminMixin(Base):
    """Shows statuses and amounts of existing rows, and does not let them be edited: only their own
    mechanism may."""

    def __init__(self, model: Any, admin_site: Any) -> None:
        super().__init__(model, admin_site)
        if edited := sorted(model.owned_columns().keys() & {*self.list_editable}):
            raise ImproperlyConfigured(
                f"{type(self).__name__}.list_editable names {', '.join(edited)}, which save() does not write."
            )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = list(super().get_readonly_fields(request, obj))
        return fields + [name for name in self.model.owned_columns() if obj and name not in fields]


class StatusAdminMixin(OwnedColumnsAdminMixin):
    """``class OrderAdmin(StatusAdminMixin, admin.ModelAdmin)``: the page of an object shows which status
    may become which, and the object's own transitions."""

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*super().get_readonly_fields(request, obj), "status_diagram", "status_history"]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = list(super().get_fieldsets(request, obj))
        shown = flatten_fieldsets(fieldsets)
        absent = [name for name in ("status_diagram", "status_history") if name not in shown]
        return [*fieldsets, (_("Transitions"), {"fields": absent})] if absent else fieldsets

    @display(description=gettext_lazy("status may become"))
    def status_diagram(self, obj: StatusMixin) -> SafeString:
        graph = obj.status_graph()
        rows = [
            (
                format_html("<b>{}</b>", status) if status == obj.current_status else status,
                ", ".join(map(str, graph.targets.get(status, ()))) or _("nothing else"),
            )
            for status in graph.statuses
        ]
        table = format_html_join("", "<tr><td>{}</td><td>→ {}</td></tr>", rows)
        return format_html(
            "<table>{}</table><details><summary>{}</summary><pre>{}</pre></details>",
            table,
            _("as a Mermaid diagram"),
            mermaid(type(obj)),
        )

    @display(description=gettext_lazy("latest transitions"))
    def status_history(self, obj: StatusMixin) -> SafeString:
        entries = obj.status_log().reverse()[:LATEST] if obj.pk is not None else ()
        cells = [
            (moment(each.at), each.from_status, each.to_status, each.event_id, each.by) for each in entries
        ]
        rows = format_html_join("", "<tr><td>{}</td><td>{} → {}</td><td>{}</td><td>{}</td></tr>", cells)
        return format_html("<table>{}</table>", rows) if cells else format_html("{}", _("None yet."))
