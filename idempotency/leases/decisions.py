"""What an operator decides has become of an operation that nobody works on and nobody can ask for.

Each function is one transaction, and takes the record as the operator saw it, its run included
(``select_related("run")``). It raises DecisionRefused, and writes nothing, unless the record still is the
same: in that state, under that fence, with that journal, and neither completed nor somebody's. The fence goes
up by one, so that an owner who comes late changes nothing. Where the database does not answer, or somebody
else has the rows, it raises StoreUnavailable or OperationInProgress.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet

from idempotency import conf
from idempotency.database import DatabaseNow
from idempotency.exceptions import DecisionRefused
from idempotency.keys import digest
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.responses import StoredResponse
from idempotency.steps.journal import BEGUN, DONE, Entry, dumped, loaded
from idempotency.steps.values import plain
from idempotency.transactions import translated

State = IdempotencyRecord.State


def mark_done(record: IdempotencyRecord, response: StoredResponse) -> None:
    """The whole operation was done, and this is its answer from now on."""
    run = run_of(record)
    answer = {
        "state": State.COMPLETED,
        "status": response.status,
        "headers": response.headers_column,
        "body": response.body,
        "body_state": response.body_state,
        "expires_at": DatabaseNow() + (run.retention if run else retention_of(record)),
    }
    # One that is finished is perhaps not to be answered otherwise, since its steps are others by now.
    with _decided(record, answer, (State.UNKNOWN, State.FINISHED)) as runs:
        runs.delete()


def mark_call_done(record: IdempotencyRecord, result: Any) -> None:
    """The call that the run broke off in was done, and returned this: whoever goes on does so after it.
    Raises NotStorable unless JSON gives back an equal result."""
    *before, call = _entries_to_broken_call(record)
    _let_go_on(record, [*before, replace(call, state=DONE, value=plain(result, call.step))])


def mark_call_not_done(record: IdempotencyRecord) -> None:
    """The call that the run broke off in was not done, and never will be: whoever goes on makes it again."""
    *before, _ = _entries_to_broken_call(record)
    _let_go_on(record, before)


def run_of(record: IdempotencyRecord) -> OperationRun | None:
    run: OperationRun | None = getattr(record, "run", None)
    return run


def retention_of(record: IdempotencyRecord) -> timedelta:
    """By default: what the operation's own was is not known."""
    return conf.inbox_retention() if record.is_message else conf.retention()


def broken_call(record: IdempotencyRecord) -> Entry | None:
    """The call of which it is noted that it was begun, and not what came of it."""
    run = run_of(record)
    entries = loaded(run.journal) if run else []
    return entries[-1] if entries and entries[-1].state == BEGUN else None


def seen_as(record: IdempotencyRecord) -> str:
    """Another text when anything is different that a decision depends on."""
    run = run_of(record)
    journal = run.journal if run else ""
    return digest(b"idem-seen", (str(record.state), str(record.fence), journal)).hex()


def _entries_to_broken_call(record: IdempotencyRecord) -> list[Entry]:
    if broken_call(record) is None:
        raise DecisionRefused("It did not break off in a call.")
    return loaded(record.run.journal)


def _let_go_on(record: IdempotencyRecord, entries: list[Entry]) -> None:
    with _decided(record, {"state": State.RUNNING, "expires_at": DatabaseNow()}) as runs:
        runs.update(journal=dumped(entries), resume_at=None)


@contextmanager
def _decided(
    record: IdempotencyRecord, values: dict[str, Any], states: Collection[int] = (State.UNKNOWN,)
) -> Iterator[QuerySet[OperationRun]]:
    """Write the record, and hand out its run to be written after it, as everybody does who writes both."""
    using, seen = record._state.db, run_of(record)
    nobodys = Q(state__in=states) | Q(state=State.RUNNING, expires_at__lte=DatabaseNow())
    same = IdempotencyRecord.objects.using(using).filter(
        nobodys, pk=record.pk, state=record.state, fence=record.fence
    )
    with translated(), transaction.atomic(using=using):
        if not same.update(**values, fence=F("fence") + 1):
            raise DecisionRefused
        runs = OperationRun.objects.using(using).filter(record_id=record.pk)
        # Its owner may have come late and gone on under the same fence, and be gone again. Locked, as an
        # older snapshot would not show that.
        journal = runs.select_for_update().values_list("journal", flat=True).first()
        if journal != (seen.journal if seen else None):
            raise DecisionRefused
        yield runs
