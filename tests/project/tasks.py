"""Celery tasks of each kind: an Order is what is written, an SMS at a gateway what is sent."""

from __future__ import annotations

import os
import signal
import time

from celery import shared_task

from idempotency.consumers.celery import idempotent_task
from idempotency.models import FailedMessage
from idempotency.steps import downstream_key
from tests.project.consumers import Refused, send
from tests.project.models import Order

MAX_ATTEMPTS = 3


def work(event, seconds=0.0, fails=0):
    """As slowly as the message asks for, and with the failures that it asks for."""
    time.sleep(seconds)
    attempts = FailedMessage.objects.with_key(event).values_list("attempts", flat=True).first() or 0
    if fails >= max(attempts, 1):
        raise Refused(event)


@idempotent_task("tasks.place", key="event", delivery="transactional", max_attempts=MAX_ATTEMPTS)
def place(event: str, seconds: float = 0.0, fails: int = 0) -> int:
    order = Order.objects.create(reference=event)
    work(event, seconds, fails)
    return order.pk


@idempotent_task("tasks.once", key="event", delivery="at_most_once", max_attempts=1000)
def send_once(event: str, seconds: float = 0.0) -> str:
    work(event, seconds)
    send(event)
    return event


@idempotent_task(
    "tasks.again",
    key=lambda event, seconds=0.0: event,
    delivery="at_least_once",
    max_attempts=1000,
    bind=True,
)
def send_again(self, event, seconds=0.0):
    work(event, seconds)
    send(event, key=downstream_key())
    return self.name


@idempotent_task("tasks.patient", key="event", delivery="transactional", max_attempts=1000)
def place_patiently(event: str, seconds: float = 0.0) -> int:
    order = Order.objects.create(reference=event)
    time.sleep(seconds)
    return order.pk


@idempotent_task("tasks.kill", key="event", delivery="at_least_once", max_attempts=2)
def kill(event: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@idempotent_task("tasks.limited", key="event", delivery="at_least_once", max_attempts=2)
def overrun(event: str, seconds: float = 0.0) -> None:
    time.sleep(seconds)


@idempotent_task("tasks.asking", key="event", delivery="transactional", bind=True)
def ask_again(self, event: str) -> int:
    Order.objects.create(reference=event)
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return self.request.retries


@idempotent_task("tasks.once_refused", key="event", delivery="at_most_once")
def refuse_once(event: str) -> None:
    """Unless there is an order."""
    if not Order.objects.exists():
        raise Refused(event)


@shared_task(name="tasks.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)
