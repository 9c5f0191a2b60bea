"""Going on with operations whose owners are gone: resume, ask what became of a call, or say why not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from django.conf import settings
from django.db import connections, transaction
from django.db.models import Q
from django.urls import get_resolver
from django.utils.module_loading import autodiscover_modules

from idempotency import conf
from idempotency.database import DatabaseNow
from idempotency.exceptions import (
    AlreadyCompleted,
    LeaseLost,
    OperationInProgress,
    OutcomeUnknown,
    SlotFrozen,
    StepsChanged,
    WrongShardMap,
)
from idempotency.leases.lease import Lease, is_free
from idempotency.leases.resumed import ResumedGuard, stored_key
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.responses import StoredResponse
from idempotency.shards.claims import hold
from idempotency.shards.routing import alias_at
from idempotency.signals import announce, recovered
from idempotency.steps.operation import registered

State = IdempotencyRecord.State
OPERATOR_DECIDES = "nobody can be asked: an operator decides, in the admin"
logger = logging.getLogger("idempotency")


class Outcome(StrEnum):
    """What became of an operation that was abandoned."""

    DONE = "done"
    """It was gone on with, to its end."""
    FREED = "freed"
    """It had not begun: its key is free."""
    UNKNOWN = "unknown"
    """It may not be run again, or whoever was asked does not know: an operator decides."""
    WAITS = "waits"
    """Its caller's retry is what it needs, or the release that began it."""
    FAILED = "failed"
    """It was gone on with, and failed again."""
    TAKEN = "taken"
    """Somebody else goes on with it."""


@dataclass(frozen=True)
class Treated:
    record: IdempotencyRecord
    outcome: Outcome
    reason: str = ""


class Completer:
    """One pass over what was abandoned in one database. Several may be at it at once: an operation is gone on
    with by whoever takes its record over."""

    def __init__(self, using: str, *, batch_size: int = 100) -> None:
        self.using = using
        self.batch_size = batch_size

    def run(self, *, dry_run: bool = False) -> Iterator[Treated]:
        """What became of each; with ``dry_run``, what would."""
        for record in self._abandoned():
            treated = self._plan(record)
            if not dry_run:
                treated = self._treat(treated)
                key = stored_key(record)
                extra = {"outcome": treated.outcome, "reason": treated.reason}
                announce(recovered, key, using=self.using, **extra)
            yield treated

    def _abandoned(self) -> Iterator[IdempotencyRecord]:
        waiting = Q(run__resume_at__gt=DatabaseNow())
        rows = IdempotencyRecord.objects.using(self.using).unfinished().exclude(waiting)
        rows = rows.select_related("run").defer("headers", "body").order_by("pk")
        last = 0
        while batch := list(rows.filter(pk__gt=last)[: self.batch_size]):
            yield from batch
            last = batch[-1].pk

    def _plan(self, record: IdempotencyRecord) -> Treated:
        """What is to be done; whether it still is, the database decides when it comes to it."""
        run: OperationRun | None = getattr(record, "run", None)
        if run is None:
            known = record.state == State.UNKNOWN
            reason = OPERATOR_DECIDES if known else "it calls outside, and may not be run again"
            return Treated(record, Outcome.UNKNOWN, reason)
        if not run.name:
            return Treated(record, Outcome.WAITS, "only its caller's retry can run it again")
        if not run.arguments:
            return Treated(record, Outcome.FREED, "it had not begun")
        found = registered(run.name)
        if found is None:
            return Treated(record, Outcome.WAITS, f"no operation {run.name!r} is registered here")
        if bytes(run.steps_digest) != found.digest:
            return Treated(record, Outcome.WAITS, str(StepsChanged(run.name)))
        if record.state == State.UNKNOWN and not found.may_ask(run):
            return Treated(record, Outcome.UNKNOWN, OPERATOR_DECIDES)
        return Treated(record, Outcome.DONE)

    def _treat(self, planned: Treated) -> Treated:
        record = planned.record
        if planned.outcome is Outcome.DONE:
            return resumed(record)
        lease = Lease(self.using, record.pk, record.fence, conf.lease(), str(record))
        treat = {Outcome.FREED: lease.forget, Outcome.UNKNOWN: lease.lose_sight}.get(planned.outcome)
        if treat is None or record.state != State.RUNNING:
            return planned
        try:
            with transaction.atomic(using=self.using):
                hold(alias_at(self.using, record.slot))
                treated = is_free(connections[self.using], record.pk) and treat()
        except SlotFrozen:
            return Treated(record, Outcome.TAKEN)
        except WrongShardMap as error:
            return Treated(record, Outcome.FAILED, str(error))
        return planned if treated else Treated(record, Outcome.TAKEN)


def resumed(record: IdempotencyRecord) -> Treated:
    """Go on with it; what it raises is its outcome here."""
    run: OperationRun = record.run
    operation = registered(run.name)
    assert operation
    guard = ResumedGuard(record, run, operation)
    try:
        with guard:
            assert guard.run
            result = operation.resumed(guard.run, json.loads(guard.run.row.arguments))
            guard.complete(StoredResponse.from_result(result if run.is_answer else None))
    except StepsChanged as error:
        return Treated(record, Outcome.WAITS, str(error))
    except OutcomeUnknown:
        return Treated(record, Outcome.UNKNOWN, OPERATOR_DECIDES)
    except (LeaseLost, AlreadyCompleted):
        return Treated(record, Outcome.TAKEN)
    except Exception as error:
        if guard.run and error is guard.run.refusal:
            return Treated(record, Outcome.DONE, f"it was refused: {error}")
        if guard.run is None and isinstance(error, OperationInProgress):
            return Treated(record, Outcome.TAKEN)
        logger.exception("cannot be gone on with: %s", record)
        return Treated(record, Outcome.FAILED, f"{type(error).__name__}: {error}")
    return Treated(record, Outcome.DONE)


def load_operations() -> None:
    """Import what registers operations: the URLconf's views, and each app's module ``operations``."""
    if getattr(settings, "ROOT_URLCONF", None):
        get_resolver().url_patterns  # noqa: B018
    autodiscover_modules("operations")
