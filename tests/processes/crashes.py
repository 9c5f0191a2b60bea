"""
An operation that meets with an accident on one of its lines, and is then retried in another process.

`python -m tests.processes.crashes OPERATION ACCIDENT MOMENTS` does so for many lines, and prints as JSON
what came of each, and the places that were executed. Forks of one warm
process that has no database connection of its own keep this fast. Each opens one; those that retry,
like a server's, do so for many.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connections  # noqa: E402
from rest_framework.test import APIClient  # noqa: E402

from idempotency.exceptions import IdempotencyError  # noqa: E402
from idempotency.models import IdempotencyRecord  # noqa: E402
from idempotency.tokens import tokens  # noqa: E402
from idempotency.tokens.texts import PresentedToken  # noqa: E402
from tests.processes import changes, consumption, payments, views, wsgi  # noqa: E402, F401  (as the server is set up)
from tests.processes.accidents import ACCIDENTS, STUCK, ended, halt  # noqa: E402
from tests.processes.lines import executed_lines, run_until  # noqa: E402
from tests.project import paying  # noqa: E402
from tests.project.models import Order, Product  # noqa: E402

AT_ONCE = 2
SOON = 1
RUN = uuid.uuid4()


def request(key, **more):
    client = APIClient(raise_request_exception=False)
    headers = {"Idempotency-Key": key, "X-User": "alice"}
    response = client.post("/race/", {"reference": key, **more}, headers=headers)
    return {"status": response.status_code, "body": response.content.decode()}


def call(key):
    try:
        return {"status": 201, "body": json.dumps(views.order_by_function(key))}
    except IdempotencyError as error:
        return {"status": 409 if error.code == "conflict" else 503, "body": error.code}


def handle(alias, key):
    try:
        told = views.HANDLERS[alias](f"{RUN} {key}", key)
    except IdempotencyError as error:
        return {"status": 409 if error.code == "conflict" else 503, "body": error.code}
    return {"status": 200, "body": told or "skipped"}


def presented(key):
    """The one token of this key; other runs on the same Redis have others."""
    text = urlsafe_b64encode(sha256(f"{RUN} {key}".encode()).digest())[:32].decode()
    return PresentedToken(text, ("auth.user", str(User.objects.get(username="alice").pk)), "")


def issue(alias, key):
    tokens(alias).create([presented(key)])


def request_with_token(alias, path, key):
    client = APIClient(raise_request_exception=False)
    headers = {"Idempotency-Key": key, "Idempotency-Token": presented(key).text, "X-User": "alice"}
    response = client.post(f"/{alias}/{path}/", {"reference": key}, headers=headers)
    return {"status": response.status_code, "body": response.content.decode()}


def found(key):
    order = Order.objects.filter(reference=key)
    return {
        "orders": order.count(),
        "products": Product.objects.filter(name=key).count(),
        "records": IdempotencyRecord.objects.with_key(key).count(),
        "order": list(order.values_list("pk", flat=True)),
    }


class Operation(NamedTuple):
    """What meets with the accident and is retried, what was done before, and what there is to count."""

    run: Callable[[str], dict[str, Any]]
    prepare: Callable[[str], object] | None = None
    found: Callable[[str], dict[str, Any]] = found
    give_up: Callable[[str], object] | None = None
    """What is done between accident and retry."""


OPERATIONS = {
    "request": Operation(request),
    "refusal": Operation(partial(request, refuse=True)),
    "function": Operation(call),
    "replay": Operation(request, prepare=request),
} | {
    f"{path} {alias}": Operation(partial(request_with_token, alias, path), prepare=partial(issue, alias))
    for alias in ("default", "redis")
    for path in ("token-race", "restored-token-race", "token-and-key-race")
}
OPERATIONS |= {f"handle {alias}": Operation(partial(handle, alias)) for alias in views.HANDLERS}
OPERATIONS |= {
    "transition": Operation(changes.transition, changes.prepare_waiting, changes.found_parcel),
    "transition at once": Operation(changes.transition_at_once, changes.prepare_plain, changes.found_parcel),
    "guard": Operation(changes.guard, changes.prepare_plain, changes.found_parcel),
    "park": Operation(changes.park, changes.prepare_parking, changes.found_parcel),
    "increment": Operation(changes.increment, changes.prepare_product, changes.found_product),
}


OPERATIONS |= {
    f"{name} {meaning}": Operation(partial(run, meaning), prepare, payments.found, payments.give_up)
    for meaning in paying.OPERATIONS
    for name, run, prepare in (
        ("pay", payments.pay, None),
        ("go on", payments.pay, partial(payments.break_off, meaning)),
        ("complete", payments.complete_and_pay, partial(payments.break_off, meaning)),
    )
}
OPERATIONS |= {
    f"consume {name}{' in vain' * fails}": Operation(
        partial(consumption.deliver, name, {"fails": fails * 1000}),
        None,
        consumption.found,
        consumption.give_up,
    )
    for name in ("orders.place", "sms.again", "sms.once", "sms.asked")
    for fails in (False, True)
}
OPERATIONS["lease"] = Operation(payments.place, None, payments.found_placed, payments.give_up)


def suffer(operation, key, line, accident):
    answer = run_until(line, partial(operation, key), accident)
    return {**answer, "ended": bool(ended)}


def is_busy(answer):
    settled = ("duplicate", "outcome-unknown")
    return answer["status"] in (409, 503) and not any(code in answer["body"] for code in settled)


def retry(operation_name, key, patience=STUCK):
    """The same in full, until it is no longer being worked on."""
    operation = OPERATIONS[operation_name]
    before = operation.found(key)
    if operation.give_up:
        operation.give_up(key)
    began = time.monotonic()
    while is_busy(answer := operation.run(key)) and time.monotonic() < began + patience:
        time.sleep(0.005)
    seconds = time.monotonic() - began
    return {**answer, "before": before, "seconds": seconds, **operation.found(key)}


def in_child(function, *arguments):
    """The signal that ended a new process, and what the function returned there."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        os._exit(report(write, function, arguments))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None, pickle.loads(result) if result else None


def report(write, function, arguments):
    try:
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(function(*arguments), pipe)
        connections.close_all()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def named(operation_name, line):
    return f"{operation_name}-{line}".replace(" ", "-")


def prepare_all(operation_name, chosen):
    for line, _ in chosen:
        OPERATIONS[operation_name].prepare(named(operation_name, line))


def crash(operation_name, accident, numbered):
    line, moment = numbered
    key = named(operation_name, line)
    number, answer = in_child(suffer, OPERATIONS[operation_name].run, key, line, ACCIDENTS[accident])
    return {**moment._asdict(), "key": key, "signal": number, "answer": answer}


def outlive(operation_name, numbered):
    """Halted there, until somebody else has taken over and ended it; then it goes on."""
    line, moment = numbered
    operation, key = OPERATIONS[operation_name], named(operation_name, line)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        os._exit(report(write, suffer, (operation.run, key, line, halt)))
    os.close(write)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    # Halted within a transaction, it has rows that others want, and keeps them waiting.
    retried = in_child(retry, operation_name, key, SOON)[1]
    os.kill(pid, signal.SIGCONT)
    with os.fdopen(read, "rb") as pipe:
        late = pickle.loads(pipe.read())
    os.waitpid(pid, 0)
    last = in_child(retry, operation_name, key)[1]
    return {**moment._asdict(), "key": key, "retry": retried, "late": late, "last": last}


def every_line(moments):
    return list(enumerate(moments))


def every_line_once(moments):
    """However often it ran."""
    first = {moment.place: line for line, moment in reversed([*enumerate(moments)])}
    return [(line, moment) for line, moment in enumerate(moments) if first[moment.place] == line]


def around_what_is_sent(moments):
    """The last line before each thing that is sent to a server, and the first after it.

    Of a process that is gone, others have what it had sent: on the lines between, that is the same.
    """
    spans = [list(span) for _, span in groupby(enumerate(moments), key=lambda each: each[1].sent)]
    return [each for span in spans for each in (span[0], span[-1])[: len(span)]]


MOMENTS = {"all": every_line, "first": every_line_once, "sent": around_what_is_sent}


def main(operation_name, accident, which):
    operation = OPERATIONS[operation_name]
    if operation.prepare:
        operation.prepare("warm")
    operation.run("warm")
    if operation.prepare:
        operation.prepare("counted")
    connections.close_all()
    gc.freeze()
    moments = in_child(executed_lines, partial(operation.run, "counted"))[1]
    chosen = MOMENTS[which](moments)
    if operation.prepare:
        in_child(prepare_all, operation_name, chosen)
    fork = multiprocessing.get_context("fork")
    if accident == "halt":
        # On SQLite, one that is halted within a transaction keeps all others waiting.
        with fork.Pool(1 if connections["default"].vendor == "sqlite" else AT_ONCE) as sufferers:
            json.dump(sufferers.map(partial(outlive, operation_name), chosen, chunksize=1), sys.stdout)
        return
    with fork.Pool(AT_ONCE) as sufferers, fork.Pool(AT_ONCE) as retriers:
        crashes = sufferers.imap_unordered(partial(crash, operation_name, accident), chosen)
        retried = [(each, retriers.apply_async(retry, [operation_name, each["key"]])) for each in crashes]
        ended = [{**each, "retry": retry.get()} for each, retry in retried]
    json.dump({"places": sorted({moment.place for moment in moments}), "crashes": ended}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
