"""
A publisher of the outbox that is killed on one of its lines, and another one that goes on.

`python -m tests.processes.publishing kill` does so for the lines around all that is sent, and prints as JSON
what then was in the queue.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from functools import partial

import django

django.setup()

from amqp.transport import TCPTransport  # noqa: E402
from django.db import connections, transaction  # noqa: E402
from kombu import Connection  # noqa: E402

from idempotency import conf, outbox  # noqa: E402
from idempotency.models import OutboxMessage  # noqa: E402
from idempotency.outbox.publisher import Publisher  # noqa: E402
from tests.processes.accidents import ACCIDENTS, STUCK  # noqa: E402
from tests.processes.crashes import around_what_is_sent, in_child  # noqa: E402
from tests.processes.lines import SENDING, executed_lines, run_until  # noqa: E402

SENT = sorted(f"{key}:{number}" for key in "ab" for number in range(2))
SENDING.add(TCPTransport.write.__code__)


def publish():
    publisher = Publisher("default", 3)
    while publisher.run().published:
        pass
    publisher.close()


def fill(queue):
    OutboxMessage.objects.all().delete()
    with transaction.atomic():
        for event in sorted(SENT, key=lambda event: event.partition(":")[2]):
            outbox.send({}, routing_key=queue, event_id=event, key=event.partition(":")[0])


def go_on():
    """Rows are free once the database has noticed that their holder is gone."""
    deadline = time.monotonic() + STUCK
    while OutboxMessage.objects.waiting().exists() and time.monotonic() < deadline:
        publish()
    return OutboxMessage.objects.waiting().count()


def drain(channel, queue):
    events = []
    while message := channel.basic_get(queue, no_ack=True):
        events.append(message.headers["event_id"])
    return events


def is_at_work(numbered):
    """Not while it connects: nothing is held by then."""
    return numbered[1].place.startswith(("outbox/publisher", "outbox/batches", "outbox/confirming"))


def main(accident):
    with Connection(conf.broker("default")["URL"]) as broker:
        channel, queue = broker.connect().channel(), f"outbox-{uuid.uuid4().hex}"
        channel.queue_declare(queue, durable=True, auto_delete=False)
        fill(queue)
        connections.close_all()
        moments = in_child(executed_lines, publish)[1]
        drain(channel, queue)
        ended = []
        for line, moment in filter(is_at_work, around_what_is_sent(moments)):
            fill(queue)
            connections.close_all()
            number, _ = in_child(partial(run_until, line, publish, ACCIDENTS[accident]))
            left = in_child(go_on)[1]
            ended.append(
                {"place": moment.place, "signal": number, "left": left, "events": drain(channel, queue)}
            )
        channel.queue_delete(queue)
    json.dump(
        {"sent": SENT, "places": sorted({moment.place for moment in moments}), "crashes": ended}, sys.stdout
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
