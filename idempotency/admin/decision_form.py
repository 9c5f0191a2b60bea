from __future__ import annotations

import json
import re
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminRadioSelect
from django.forms.boundfield import BoundField
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency import conf
from idempotency.admin.readable import same_object
from idempotency.exceptions import NotStorable
from idempotency.leases.decisions import (
    broken_call,
    mark_call_done,
    mark_call_not_done,
    mark_done,
    run_of,
)
from idempotency.models import IdempotencyRecord
from idempotency.responses import StoredResponse, is_storable_status

ANSWERED, RETURNED, CALL_DONE, CALL_NOT_DONE = "answered", "returned", "call-done", "call-not-done"
OWN_FIELDS = {ANSWERED: {"status", "content_type", "body"}, RETURNED: {"result"}, CALL_DONE: {"result"}}
WITHOUT_BODY = {204, 205, 304}
CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?charset=utf-8)?", re.ASCII | re.IGNORECASE)


class DecisionForm(forms.Form):
    """Offers what can be decided about this record, and writes what was chosen."""

    decision = forms.ChoiceField(
        label=gettext_lazy("What became of it"), widget=AdminRadioSelect(attrs={"class": "radiolist"})
    )
    status = forms.IntegerField(label=gettext_lazy("HTTP status"), required=False)
    content_type = forms.CharField(
        label=gettext_lazy("Content-Type"), required=False, initial="application/json"
    )
    body = forms.CharField(
        label=gettext_lazy("Body"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "cols": 80, "spellcheck": "false"}),
    )
    result = forms.CharField(
        label=gettext_lazy("Result"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 4, "cols": 80, "spellcheck": "false"}),
        help_text=gettext_lazy("JSON, as the program would have had it: 7, or null, or a text in quotes."),
    )
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 80}),
        help_text=gettext_lazy("How you know. It is kept in the log of admin actions."),
    )

    def __init__(self, record: IdempotencyRecord, *args: Any) -> None:
        super().__init__(*args)
        self.record = record
        decisions: forms.ChoiceField = self.fields["decision"]  # type: ignore[assignment]
        decisions.choices = choices_of(record)
        offered = {name for decision, __ in choices_of(record) for name in OWN_FIELDS.get(decision, ())}
        for name in {"status", "content_type", "body", "result"} - offered:
            del self.fields[name]

    @property
    def groups(self) -> list[tuple[str, list[BoundField]]]:
        """Fields under their headings."""
        headed = ((_("Answer over HTTP"), ("status", "content_type", "body")), ("", ("result", "reason")))
        groups = [(head, [self[name] for name in names if name in self.fields]) for head, names in headed]
        return [("", [self["decision"]]), *(group for group in groups if group[1])]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        decision = given.get("decision")
        if decision is None:
            return given
        for name in {"status", "body", "result"} - OWN_FIELDS.get(decision, set()):
            if given.get(name) not in (None, ""):
                self.add_error(name, _("It is no part of what you have chosen: leave it empty."))
        if decision == ANSWERED and "status" in given:
            self._clean_answer(given)
        if decision in (RETURNED, CALL_DONE):
            given["result"] = self._parsed("result", given.get("result", ""))
        return given

    def _clean_answer(self, given: dict[str, Any]) -> None:
        # Browsers send the ends of lines as mail does.
        body = given.get("body", "").replace("\r\n", "\n")
        status, content_type = given["status"], given.get("content_type", "")
        if status is None or not is_storable_status(status):
            self.add_error("status", _("Give one from 200 to 499, and none about the caller, such as 401."))
        if body and status in WITHOUT_BODY:
            self.add_error("body", _("An answer with this status has no body."))
        if len(body.encode()) > conf.max_stored_body():
            self.add_error("body", _("It is longer than IDEMPOTENCY_MAX_STORED_BODY."))
        if body and not CONTENT_TYPE.fullmatch(content_type):
            self.add_error("content_type", _("Give a media type of text, such as application/json."))
        elif body and content_type.partition(";")[0].lower().endswith("json"):
            self._parsed("body", body)
        headers = {"Content-Type": content_type} if body else {}
        given["response"] = StoredResponse(status, headers, body.encode())

    def _parsed(self, name: str, text: str) -> Any:
        try:
            value = json.loads(text, object_pairs_hook=same_object)
            StoredResponse.from_result(value)
        except (ValueError, RecursionError, NotStorable) as error:
            self.add_error(name, _("This is no JSON that can be kept: %s") % error)
            return None
        return value

    def decide(self) -> None:
        """Raises DecisionRefused, or the database's refusals."""
        decision, given = self.cleaned_data["decision"], self.cleaned_data
        if decision == ANSWERED:
            mark_done(self.record, given["response"])
        elif decision == RETURNED:
            mark_done(self.record, StoredResponse.from_result(given["result"]))
        elif decision == CALL_DONE:
            mark_call_done(self.record, given["result"])
        else:
            mark_call_not_done(self.record)

    @property
    def decided(self) -> str:
        """For the log: without the answer, which not everybody may read who reads that."""
        decision, call = self.cleaned_data["decision"], broken_call(self.record)
        if decision == ANSWERED:
            return f"the whole operation was done, and is answered with {self.cleaned_data['status']}"
        if decision == RETURNED:
            return "the whole operation was done, and its result is given"
        step = call.step if call else ""
        if decision == CALL_DONE:
            return f"the call {step} was done, and its result is given"
        return f"the call {step} was not done, and is made again"


def choices_of(record: IdempotencyRecord) -> list[tuple[str, str]]:
    run, call = run_of(record), broken_call(record)
    choices = [(RETURNED, _("The whole operation was done, and this is what the function returned"))]
    if not record.is_message and not (run and run.is_answer):
        choices.insert(0, (ANSWERED, _("The whole operation was done, and this is its answer over HTTP")))
    if call:
        choices += [
            (CALL_DONE, _("The call %s was done, and this is its result") % call.step),
            (CALL_NOT_DONE, _("The call %s was not done: make it again") % call.step),
        ]
    return choices
