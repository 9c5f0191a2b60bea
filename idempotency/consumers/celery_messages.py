"""What becomes of a task's message. Imported by idempotency.consumers.celery alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from celery import current_app
from celery.exceptions import Ignore, Reject, Retry, TaskPredicate
from django.db import router, transaction
from kombu.pools import producers
from kombu.utils import json

from idempotency.brokers import is_amqp
from idempotency.consumers.consumer import Consumer
from idempotency.consumers.guards import InboxGuard
from idempotency.consumers.handling import Delivery, Fate, Handled
from idempotency.exceptions import AlreadyCompleted, GivenUp, IdempotencyError, InvalidKey
from idempotency.keys import ScopedKey
from idempotency.models import FailedMessage
from idempotency.responses import StoredResponse

SUCCEEDED = ("celery-retry", "")
"""The principal of messages in whose place another one was sent."""
REMEMBERED = timedelta(days=1)
BOOKKEEPING_SECONDS = 5.0
VISIBILITY_TIMEOUT = 1800
"""Seconds; the shortest that a transport of kombu's has of itself."""
logger = logging.getLogger("idempotency")


@dataclass(frozen=True)
class TaskMessage:
    """The message that a task is running for."""

    task: Any
    consumer: Consumer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    max_attempts: int

    def settle(self) -> Any:
        """The result; or raises what tells Celery what is to become of the message."""
        try:
            self.consumer.signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            self._give_up(
                Handled(Fate.DEAD, reason=f"Its arguments are not the task's: {error}", error=error)
            )
        handled = self._handle()
        if handled.fate is Fate.DONE:
            return handled.result
        if isinstance(handled.error, Retry):
            # The function has sent it again itself.
            raise handled.error
        if handled.fate is Fate.LATER:
            self._put_off(handled)
        self._give_up(handled)

    def _handle(self) -> Handled:
        request = self.task.request
        # A message that was killed may come back as the successor of one that only waited for its lease.
        is_suspect = bool((request.delivery_info or {}).get("redelivered")) or request.retries > 0
        delivery = Delivery(
            self.consumer, self.args, self.kwargs, max_attempts=self.max_attempts, is_suspect=is_suspect
        )
        try:
            return delivery.handle()
        except Exception as error:
            # A soft time limit comes at any line, those too that count attempts.
            logger.warning("to be tried again: %s", self.task.name, exc_info=error)
            return Handled(Fate.LATER, seconds=BOOKKEEPING_SECONDS, error=error)

    # Later

    def _put_off(self, handled: Handled) -> NoReturn:
        """Have another message take its place, which the broker has before this one is acknowledged."""
        try:
            seconds = self._send_successor(handled.seconds)
        except AlreadyCompleted:
            raise Ignore("Another message has taken its place.") from handled.error
        except Exception as error:
            raise Reject(error, requeue=True) from handled.error
        raise Retry(exc=handled.error, when=seconds) from handled.error

    def _send_successor(self, seconds: float) -> float:
        """In how many seconds it is tried again. Raises AlreadyCompleted where a copy has sent it."""
        app = self.task.app
        connection = confirming_connection(app)
        tag = (self.task.request.properties or {}).get("delivery_tag")
        if is_amqp(connection) or not tag:
            self._publish(connection, seconds)
            return seconds
        # Copies that were restored while it was at work have one successor, or there were ever more of them.
        options = app.conf.broker_transport_options
        seconds = min(seconds, options.get("visibility_timeout", VISIBILITY_TIMEOUT) / 2)
        guard = InboxGuard(
            ScopedKey(SUCCEEDED, self.consumer.name, str(tag)),
            using=self.consumer.database(*self.args, **self.kwargs),
            retention=REMEMBERED,
        )
        try:
            with guard:
                self._publish(connection, seconds)
                guard.complete(StoredResponse.from_result(None))
        except IdempotencyError:
            # The database is away, or a copy is sending one at this moment and may fail: rather one too many.
            self._publish(connection, seconds)
        return seconds

    def _publish(self, connection: Any, seconds: float) -> None:
        request = self.task.request
        successor = self.task.signature_from_request(countdown=seconds, retries=request.retries + 1)
        with producers[connection].acquire(block=True) as producer:
            successor.apply_async(producer=producer)

    # Given up

    def _give_up(self, handled: Handled) -> NoReturn:
        """Acknowledged by its failure, when its arguments are kept."""
        message = self._as_text()
        try:
            key = self.consumer.scoped_key(*self.args, **self.kwargs)
        except (InvalidKey, TypeError):
            logger.error("given up, and kept nowhere but here: %s: %s", message, handled.reason)
        else:
            try:
                self._keep(key, message)
            except Exception as error:
                self._put_off(Handled(Fate.LATER, seconds=BOOKKEEPING_SECONDS, error=error))
        if handled.error is None or isinstance(handled.error, TaskPredicate):
            raise GivenUp(handled.reason) from handled.error
        raise handled.error

    def _keep(self, key: ScopedKey, message: str) -> None:
        using = self.consumer.database(*self.args, **self.kwargs)
        failed = FailedMessage.objects.using(using).filter(key_digest=key.key_digest, scope=key.scope)
        failed.update(message=message)

    def _as_text(self) -> str:
        request = self.task.request
        info = request.delivery_info or {}
        queue = None if info.get("exchange") else info.get("routing_key")
        return message_text(self.task.name, request.args, request.kwargs, queue)


def confirming_connection(app: Any) -> Any:
    """For kombu's pool: what is sent on it is with the broker when that returns."""
    return app.connection_for_write(transport_options={"confirm_publish": True})


def message_text(task: str, args: Any, kwargs: Any, queue: str | None) -> str:
    try:
        return str(json.dumps({"task": task, "args": args, "kwargs": kwargs, "queue": queue}))
    except TypeError:  # pickled, perhaps
        return str(json.dumps({"task": task, "repr": f"{args!r} {kwargs!r}"}))


def send_again(failed: FailedMessage, app: Any = None) -> None:
    """Send a task's message that was given up, as if it had never failed; what was to follow it in a chain is
    not known any more. Raises ValueError where its arguments are not kept."""
    kept = json.loads(failed.message or "{}")
    if "args" not in kept:
        raise ValueError(f"The arguments of {failed} are not kept.")
    app = app or current_app
    task, options = app.tasks[kept["task"]], {"queue": kept["queue"]} if kept["queue"] else {}
    using = failed._state.db or router.db_for_write(FailedMessage)
    with (
        transaction.atomic(using=using),
        producers[confirming_connection(app)].acquire(block=True) as producer,
    ):
        # Its failures are forgotten when it is sent, and only then; it waits for that.
        FailedMessage.objects.using(using).filter(pk=failed.pk).delete()
        task.apply_async(kept["args"], kept["kwargs"], producer=producer, **options)
