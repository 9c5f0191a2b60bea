"""Forgetting a record on purpose, so that its operation may run again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django import forms
from django.contrib.admin.models import DELETION, LogEntry
from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency import conf
from idempotency.admin.runs import attach_runs, entries_of
from idempotency.admin.shards import addressed, hold_slots
from idempotency.leases.decisions import seen_as
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.steps.journal import BEGUN, DONE

State = IdempotencyRecord.State
Records = QuerySet[IdempotencyRecord]
logger = logging.getLogger("idempotency")


class ReleaseForm(forms.Form):
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 80}),
        help_text=gettext_lazy("How you know that it was not done. It is kept in the log of admin actions."),
    )


@dataclass
class Outcome:
    released: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def refusal(record: Any) -> str | None:
    """Why a record, with ``live`` by its database's clock, may not be released."""
    if record.state in IdempotencyRecord.DONE and not conf.release_completed():
        return _("It was done; IDEMPOTENCY_RELEASE_COMPLETED does not allow to release it.")
    if record.state == State.RUNNING and record.live:
        return _("It is being worked on: wait until it ends, or its time is over.")
    return None


def release(records: Records, seen: Mapping[int, str], *, user_id: int, reason: str) -> Outcome:
    """Delete those of the records that still are what they were ``seen_as()``, together with their runs.

    The log entry commits first where it lives in another database: better an entry too many than an
    operation that ran twice and nobody knows why. Raises DecisionRefused where a slot is frozen.
    """
    outcome = Outcome()
    with transaction.atomic(using=records.db), transaction.atomic(using=router.db_for_write(LogEntry)):
        rows = list(locked(records.filter(pk__in=seen)))
        hold_slots(rows)
        # Read once their records are held: nobody else writes them any more.
        attach_runs(rows)
        free = {record.pk: record for record in rows}
        for pk, look in seen.items():
            record = free.get(pk)
            if record is None:
                outcome.refused[str(pk)] = _("It is gone, or being worked on.")
            elif seen_as(record) != look:
                outcome.refused[str(record)] = _("Its state has changed since you looked.")
            elif why := refusal(record):
                outcome.refused[str(record)] = why
            else:
                outcome.released.append(str(record))
                forget(record, user_id, reason)
    return outcome


def locked(records: Records) -> Records:
    features = connections[records.db].features
    return records.select_for_update(skip_locked=features.has_select_for_update_skip_locked)


def forget(record: IdempotencyRecord, user_id: int, reason: str) -> None:
    message = f"Released ({record.get_state_display()}): {reason}"
    LogEntry.objects.log_actions(user_id, [addressed(record)], DELETION, message, single_object=True)
    logger.warning("released %s by user %s", record, user_id)
    pk, using = record.pk, record._state.db
    record.delete()
    OperationRun.objects.using(using).filter(pk=pk).delete()


def effects_of(record: IdempotencyRecord) -> list[str]:
    """The steps whose effects stay, and would come about again; of a call that broke off, perhaps."""
    names = {DONE: "%s", BEGUN: _("perhaps %s")}
    return [names[entry.state] % entry.step for entry in entries_of(record) if entry.state in names]
