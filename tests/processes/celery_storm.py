"""Messages of every kind that come twice, while Celery's workers and their pools' processes are killed."""

from __future__ import annotations

import uuid
from threading import Event

from idempotency.models import FailedMessage, InboxMessage
from tests.processes.gates import STUCK
from tests.processes.messaging import wait_until

KINDS = ["tasks.patient", "tasks.again", "tasks.once"]
SLOW = 1.5
"""Seconds; longer than what is handed out is hidden on Redis."""


def storm(workers, number, kills, chance):
    """The events of each kind, when all are done or given up, and no message is left."""
    events = {task: [uuid.uuid4().hex for _ in range(number)] for task in KINDS}
    send_all(workers.broker, events, chance)
    wait_until(lambda: any(settled()))
    kill_some(workers, kills, chance)
    wait_until(lambda: has_settled(workers, number * len(KINDS)), STUCK + number)
    wait_until(lambda: workers.broker.left() == 0, STUCK + number)
    return events


def send_all(broker, events, chance):
    """A third of them twice, a few of them slow."""
    messages = []
    for task, each in events.items():
        slow = set(each[:: max(40, len(each) // 10)])
        twice = [*each, *each[: len(each) // 3]]
        messages += [(task, event, SLOW if event in slow else chance.uniform(0, 0.05)) for event in twice]
    chance.shuffle(messages)
    for task, event, seconds in messages:
        broker.send(task, event, seconds=seconds)


def kill_some(workers, kills, chance):
    """While they are at work; every fourth time, on RabbitMQ, a whole worker, whose pool ends after it."""
    pause = Event()
    for number in range(kills):
        pause.wait(chance.uniform(0.05, 0.4))  # at no moment in particular
        workers.supervise()
        index = chance.randrange(len(workers.processes))
        # On Redis, kombu takes a message off its queue before it notes that it is handed out: what a worker
        # that is killed in between had taken is gone, whatever its task is made of.
        if number % 4 == 1 and workers.broker.name == "rabbitmq":
            workers.kill(index)
            workers.start()
        else:
            workers.kill_child(chance, index)


def has_settled(workers, number):
    workers.supervise()
    return len(set.union(*settled())) == number


def settled():
    """(task, event) of those that are done, and of those that were given up."""
    done = InboxMessage.objects.filter(state=InboxMessage.State.COMPLETED).values_list("operation", "key")
    dead = FailedMessage.objects.filter(dead_at__isnull=False).values_list("consumer", "key")
    return set(done), set(dead)
