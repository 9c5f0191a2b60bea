"""What of an operation is done, as a record's page shows it, always escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib.admin import display
from django.db.models import Prefetch, prefetch_related_objects
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency.admin.readable import as_json, indented, moment, preformatted, shortened
from idempotency.leases.decisions import run_of
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps.journal import BEGUN, DONE, REFUSED, Entry, loaded

RUN_FIELDS = ("run_name", "run_principal", "run_attempts", "run_error", "run_next")
HIDDEN_RUN_FIELDS = ("run_arguments", "run_journal")
ENTRY_STATES = {
    BEGUN: gettext_lazy("begun; what came of it is not known"),
    DONE: gettext_lazy("done"),
    REFUSED: gettext_lazy("refused"),
}


def attach_runs(records: Sequence[IdempotencyRecord], *, hide: bool = False) -> None:
    """In one query for all. ``hide``: without what not everybody may see."""
    if records:
        runs = OperationRun.objects.using(records[0]._state.db)
        runs = runs.defer("arguments", "journal") if hide else runs
        prefetch_related_objects(records, Prefetch("run", runs))


def entries_of(record: IdempotencyRecord) -> list[Entry]:
    run = run_of(record)
    return loaded(run.journal) if run else []


class RunDisplayMixin:
    """For the records' admin: what is shown of the run beside a record that has one."""

    @display(description=gettext_lazy("registered as"))
    def run_name(self, record: Any) -> str:
        return record.run.name or _("(no steps: its caller's retry runs it again)")

    @display(description=gettext_lazy("on behalf of"))
    def run_principal(self, record: Any) -> str:
        return f"{record.run.principal_kind} {record.run.principal_id}"

    @display(description=gettext_lazy("attempts"))
    def run_attempts(self, record: Any) -> int:
        return int(record.run.attempts)

    @display(description=gettext_lazy("last error"), empty_value="-")
    def run_error(self, record: Any) -> SafeString | None:
        return preformatted(record.run.last_error) if record.run.last_error else None

    @display(description=gettext_lazy("gone on with"))
    def run_next(self, record: Any) -> str:
        if record.state in IdempotencyRecord.DONE:
            return _("It is done. Its caller's next request is answered.")
        if record.state == IdempotencyRecord.State.RUNNING and record.live:
            return _("By its owner, who is at work")
        if record.state == IdempotencyRecord.State.UNKNOWN:
            return _("When it is known what became of it: from whoever can be asked, or by a decision")
        if not record.run.name:
            return _("With its caller's next request")
        if record.run.resume_at:
            when = moment(record.run.resume_at)
            return _("With its caller's next request, or by the completer after %s") % when
        return _("With its caller's next request, or the completer's next pass")

    @display(description=gettext_lazy("arguments"), empty_value="-")
    def run_arguments(self, record: Any) -> SafeString | None:
        text = record.run.arguments
        return preformatted(shortened(indented(text))) if text else None

    @display(description=gettext_lazy("steps"), empty_value="-")
    def run_journal(self, record: Any) -> SafeString | None:
        rows = [
            (number, entry.step, ENTRY_STATES[entry.state], value_of(entry))
            for number, entry in enumerate(entries_of(record), 1)
        ]
        heads = (_("Step"), _("State"), _("Result"))
        head = format_html("<tr><th></th><th>{}</th><th>{}</th><th>{}</th></tr>", *heads)
        cells = "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>"
        body = format_html_join("", cells, rows)
        return format_html("<table>{}{}</table>", head, body) if rows else None


def value_of(entry: Entry) -> SafeString | str:
    if entry.state == BEGUN:
        return ""
    return preformatted(shortened(as_json(entry.value)))
