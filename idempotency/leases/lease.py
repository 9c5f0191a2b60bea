"""A claim that is committed: whose it is, and what its owner may say of it."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency import conf
from idempotency.clock import now
from idempotency.database import LATER
from idempotency.exceptions import StoreUnavailable
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.records.base import MICROSECOND, TABLE
from idempotency.responses import StoredResponse
from idempotency.transactions import asked

logger = logging.getLogger("idempotency")
State = IdempotencyRecord.State
NO_TIME = timedelta(0)
SOON = 1.0


class Lease:
    """A record under a fence. Each statement takes effect only while that is the record's own fence, and
    says whether it did: an owner who comes late changes nothing."""

    def __init__(self, using: str, pk: int, fence: int, length: timedelta, name: str) -> None:
        self.using, self.pk, self.fence, self.length, self.name = using, pk, fence, length, name
        self.ttl = length.total_seconds()
        self._renew_until = now() + conf.renew_for().total_seconds()
        self.is_open = True
        self.is_lost = False
        """Whether it is known to be another's."""
        self.is_settled = False
        """Whether something was said of it that nothing else is to follow."""

    def __str__(self) -> str:
        return f"{self.name} (record {self.pk}, fence {self.fence})"

    @property
    def key(self) -> object:
        return self

    @property
    def medium(self) -> str:
        return f"lease {self.using}"

    def keep(self) -> float | None:
        """For the thread that renews it, which has a connection of its own."""
        if now() >= self._renew_until:
            logger.warning("is at it for longer than IDEMPOTENCY_RENEW_FOR, and not renewed: %s", self)
            return None
        try:
            with asked(self.using):
                kept = self.extend()
        except StoreUnavailable:
            # On SQLite it may be the work itself that keeps others from writing, a successor too.
            return min(SOON, self.ttl / 10)
        if not kept and self.is_open:
            self.is_lost = True
        return self.ttl / 3 if kept else None

    def extend(self) -> bool:
        return self._update(f"expires_at = {self._later}", self.length // MICROSECOND)

    def end(self, pause: timedelta = NO_TIME) -> bool:
        """Whoever comes next may go on, or when the pause is over."""
        return self._settle(f"expires_at = {self._later}", pause // MICROSECOND)

    def lose_sight(self, pause: timedelta = NO_TIME) -> bool:
        """Its outcome is not known. Where somebody can be asked, not before the pause is over."""
        return self._settle(f"state = {State.UNKNOWN:d}, expires_at = {self._later}", pause // MICROSECOND)

    def finish(self, retention: timedelta) -> bool:
        """It is done, and whoever asks next is to be answered: the journal is kept for that."""
        return self._settle(
            f"state = {State.FINISHED:d}, expires_at = {self._later}", retention // MICROSECOND
        )

    def complete(self, response: StoredResponse, retention: timedelta, *, has_run: bool) -> bool:
        """Within the transaction of what is answered."""
        values = (response.status, response.headers_column, response.body, response.body_state)
        # Given up for unknown, it may be known after all: nobody else has run it since.
        done = self._execute(
            f"UPDATE {TABLE} SET state = %s, status = %s, headers = %s, body = %s, body_state = %s, "
            f"expires_at = {self._later} WHERE id = %s AND fence = %s AND state IN (%s, %s)",
            *(State.COMPLETED, *values, retention // MICROSECOND),
            *(self.pk, self.fence, State.RUNNING, State.UNKNOWN),
        )
        # After the record, as everybody does who writes both.
        if done and has_run:
            self._forget_run()
        return done

    def forget(self) -> bool:
        """Nothing of it was done: its key is free."""
        self.is_settled = True
        with transaction.atomic(using=self.using):
            gone = self._execute(
                f"DELETE FROM {TABLE} WHERE id = %s AND fence = %s AND state = %s",
                *(self.pk, self.fence, State.RUNNING),
            )
            if gone:
                self._forget_run()
        return gone

    def _forget_run(self) -> None:
        self._execute(f"DELETE FROM {OperationRun._meta.db_table} WHERE record_id = %s", self.pk)

    @property
    def _later(self) -> str:
        return LATER[connections[self.using].vendor]

    def _settle(self, assignments: str, *values: Any) -> bool:
        self.is_settled = True
        return self._update(assignments, *values)

    def _update(self, assignments: str, *values: Any) -> bool:
        return self._execute(
            f"UPDATE {TABLE} SET {assignments} WHERE id = %s AND fence = %s AND state = %s",
            *values,
            *(self.pk, self.fence, State.RUNNING),
        )

    def _execute(self, sql: str, *values: Any) -> bool:
        with connections[self.using].cursor() as cursor:
            cursor.execute(sql, values)
            return bool(cursor.rowcount == 1)


def is_free(connection: BaseDatabaseWrapper, pk: int) -> bool:
    """Within a transaction: whether nobody is about to write the record, and nobody else may from now on. An
    owner that was halted right before its commit would keep whoever comes waiting."""
    if not connection.features.has_select_for_update_skip_locked:
        return True
    rows = IdempotencyRecord.objects.using(connection.alias).filter(pk=pk).order_by()
    return bool(rows.select_for_update(skip_locked=True).values_list("pk"))
