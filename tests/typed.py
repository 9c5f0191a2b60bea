"""What users type, as mypy sees it: `mypy` reads this file, and nothing runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_type

from idempotency.consumers import idempotent_consumer
from idempotency.consumers.celery import idempotent_task
from idempotency.decorators import idempotent
from idempotency.locks import HeldLock, first_wins, lock
from idempotency.unique_ids import unique_ids


@idempotent(key="number")
def recorded(number: int) -> str:
    return str(number)


@idempotent(guard=unique_ids(), key="number")
def handled(number: int) -> str:
    return str(number)


@idempotent(guard=first_wins(on_busy="skip"), key="number")
def settled(number: int) -> str:
    return str(number)


@idempotent(guard=unique_ids(), key="number")
async def handled_by_a_task(number: int) -> str:
    return str(number)


@idempotent_consumer("typed.received", key="number", delivery="transactional")
def received(number: int) -> str:
    return str(number)


@idempotent_consumer("typed.task", key=lambda number: number, delivery="at_most_once", not_done=ValueError)
async def received_by_a_task(number: int) -> str:
    return str(number)


@idempotent_task("orders.place", key="number", delivery="transactional")
def place(number: int) -> str:
    return str(number)


@idempotent_task("orders.send", bind=True, key="number", delivery="at_most_once")
def send(self: object, number: int) -> str:
    return str(number)


@lock("order:42", wait=None)
def locked(number: int) -> str:
    return str(number)


@lock("order:42", on_busy="skip")
def locked_or_skipped(number: int) -> str:
    return str(number)


@lock("order:42")
async def locked_task(number: int) -> str:
    return str(number)


@lock("order:42", on_busy="skip")
async def locked_task_or_skipped(number: int) -> str:
    return str(number)


async def within_a_task() -> None:
    assert_type(await handled_by_a_task(1), str | None)
    assert_type(await received_by_a_task(1), str | None)
    assert_type(await locked_task(1), str)
    assert_type(await locked_task_or_skipped(1), str | None)
    async with lock("order:42", on_busy="skip") as perhaps:
        assert_type(perhaps, HeldLock | None)


assert_type(recorded(1), str)
assert_type(handled(1), str | None)
assert_type(settled(number=1), str | None)
assert_type(received(number=1), str | None)
assert_type(place(1), str)
assert_type(send(number=1), str)
place.delay(number=1)
place.delay("1")  # type: ignore[arg-type]
send.delay()  # type: ignore[call-arg]
assert_type(locked(1), str)
assert_type(locked_or_skipped(1), str | None)
narrow: Callable[[int], str | None] = handled

with lock("order:42") as held:
    assert_type(held, HeldLock)
    assert_type(held.fence, int)
with lock("order:42", on_busy="skip") as perhaps:
    assert_type(perhaps, HeldLock | None)
with unique_ids("default", "orders").once("42"):
    pass
