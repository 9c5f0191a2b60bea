"""One delivery of a message: handle it, and say what is to become of it. Knows no broker."""

from __future__ import annotations

import logging
import random
from asyncio import CancelledError
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from asgiref.sync import async_to_sync

from idempotency.consumers.consumer import Consumer
from idempotency.consumers.failures import Failures, described, shortened
from idempotency.consumers.outages import is_away
from idempotency.exceptions import (
    AlreadyCompleted,
    CallsItself,
    ClosedInside,
    InvalidKey,
    OperationInProgress,
    OutcomeUnknown,
    StoreUnavailable,
)
from idempotency.records import RecordGuard
from idempotency.steps.values import storable

LONGEST_PAUSE = 300.0
MOST_DOUBLINGS = 20
logger = logging.getLogger("idempotency")


class Fate(StrEnum):
    DONE = "done"
    """It was handled, now or before: acknowledge it."""
    LATER = "later"
    """Somebody else has it, a store is away, or it failed: try it again after ``seconds``."""
    DEAD = "dead"
    """It is given up for ``reason``: put it aside, and acknowledge it."""


class HandlerEnded(Exception):
    """By what ends a process or a task, such as the ``sys.exit()`` of a command that it called."""


@dataclass(frozen=True)
class Handled:
    fate: Fate
    result: Any = None
    seconds: float = 0.0
    reason: str = ""
    error: Exception | None = None


@dataclass(frozen=True)
class Delivery:
    """A message that was handed to a consumer, as its arguments.

    ``is_suspect``: an earlier delivery may have taken its worker with it; a broker's ``redelivered`` is such
    a hint, and no more than that. ``has_failed``: it is known to have failed before.
    ``is_revived``: an operator has sent it again, after it was given up. ``unreadable``: what was wrong with
    it before anybody looked at it.
    """

    consumer: Consumer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    max_attempts: int
    is_suspect: bool = False
    has_failed: bool = False
    is_revived: bool = False
    hopeless: tuple[type[Exception], ...] = ()
    """What no other attempt would end otherwise, such as a payload that cannot be decoded."""
    unreadable: Exception | None = None
    survives_exits: bool = False
    """Whether a SystemExit can only be the handler's own. Celery ends its children by one."""

    def handle(self) -> Handled:
        """Raises no Exception that a message could cause."""
        try:
            # Before the handler has it, which may take it to pieces.
            guard = self.consumer.guard(*self.args, **self.kwargs)
        except Exception as error:
            return self._unidentified(error)
        try:
            return self._handle(guard, Failures(guard.key, guard.using))
        except (OperationInProgress, StoreUnavailable) as error:
            # The failures' database is away.
            return self._later(error)

    def _unidentified(self, error: Exception) -> Handled:
        """Under no business id, or in no database, there is nothing to count by."""
        # What was asked for the id, perhaps.
        if is_passing(error.__cause__ or error):
            return self._later(error)
        reason = shortened(str(error)) if isinstance(error, InvalidKey) else described(error)
        logger.error("given up: %s: %s", self.consumer.name, reason)
        return Handled(Fate.DEAD, reason=storable(reason), error=error)

    def _handle(self, guard: RecordGuard, failures: Failures) -> Handled:
        if self.is_revived:
            failures.revive()
        elif (self.is_suspect or self.has_failed) and (reason := failures.buried()):
            # Its worker died, or its broker went away, before it was put aside.
            return Handled(Fate.DEAD, reason=reason)
        if self.is_suspect and failures.begin() > self.max_attempts:
            return self._never_ended(guard, failures)
        try:
            result = self._run(guard)
        except Exception as error:
            if is_passing(error):
                if self.is_suspect:
                    failures.unbegin()
                return self._later(error)
            return self._failed(failures, error)
        if self.is_suspect or self.has_failed:
            failures.forget()
        return Handled(Fate.DONE, result=result)

    def _never_ended(self, guard: RecordGuard, failures: Failures) -> Handled:
        """Copies of one that is being worked on count as attempts too, until each has found it busy: it is
        given up when nobody is at it, and it was not done."""
        try:
            with guard:
                guard.abandon()
        except AlreadyCompleted as done:
            failures.forget()
            return Handled(Fate.DONE, result=done.record.response.result)
        except (OperationInProgress, StoreUnavailable) as error:
            failures.unbegin()
            return self._later(error)
        except OutcomeUnknown as error:
            return self._dead(failures, described(error), error)
        return self._dead(failures, f"It was begun {self.max_attempts} times, and did not end.")

    def _run(self, guard: RecordGuard) -> Any:
        if self.unreadable:
            raise self.unreadable
        consumer = self.consumer
        run = async_to_sync(consumer.run_async) if consumer.is_async else consumer.run
        try:
            return run(guard, self.args, self.kwargs)
        except (SystemExit, CancelledError, GeneratorExit) as error:
            # One that somebody has derived from them ends the process, as Celery's does.
            handlers_own = (SystemExit, CancelledError, GeneratorExit)[not self.survives_exits :]
            if type(error) not in handlers_own:
                raise
            raise HandlerEnded(f"{type(error).__name__}({error})") from error

    def _failed(self, failures: Failures, error: Exception) -> Handled:
        logger.warning("failed: %s", failures.key, exc_info=error)
        attempts = failures.note(error, counted=self.is_suspect)
        if why := self._why_hopeless(error):
            return self._dead(failures, f"{why}: {described(error)}", error)
        if attempts >= self.max_attempts:
            return self._dead(failures, f"It failed {attempts} times, at last with {described(error)}", error)
        pause = min(2.0 ** min(attempts - 1, MOST_DOUBLINGS), LONGEST_PAUSE)
        return Handled(Fate.LATER, seconds=pause * random.uniform(0.8, 1.2), error=error)

    def _why_hopeless(self, error: Exception) -> str | None:
        consumer = self.consumer
        if error is self.unreadable or isinstance(error, self.hopeless):
            return "It cannot be read"
        if consumer.delivery != "at_most_once" or consumer.reconcile:
            return None
        if isinstance(error, OutcomeUnknown):
            return "Its worker died over it, and nobody can be asked what it did"
        return None if isinstance(error, consumer.not_done) else "Its outcome is not known"

    def _later(self, error: Exception) -> Handled:
        logger.info("tried again later: %s: %s", self.consumer.name, error)
        seconds = float(getattr(error, "retry_after", None) or 1)
        return Handled(Fate.LATER, seconds=seconds * random.uniform(1, 1.2), error=error)

    def _dead(self, failures: Failures, reason: str, error: Exception | None = None) -> Handled:
        failures.bury(reason)
        logger.error("given up: %s: %s", failures.key, reason)
        return Handled(Fate.DEAD, reason=reason, error=error)


def is_passing(error: BaseException) -> bool:
    """Whether it says nothing about the message: somebody else has what it needs, or a store is away."""
    if isinstance(error, CallsItself | ClosedInside):
        return False
    return isinstance(error, OperationInProgress | StoreUnavailable) or is_away(error)
