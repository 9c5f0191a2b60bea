"""The way of a guarded request, whatever kind of view it is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from idempotency.asynchronous import AsyncGuard
from idempotency.exceptions import (
    AlreadyCompleted,
    IdempotencyError,
    OperationInProgress,
    StoreUnavailable,
)
from idempotency.policies import IdempotencyPolicy
from idempotency.problems import problem_response
from idempotency.records import RecordGuard
from idempotency.responses import StoredResponse
from idempotency.signals import announce, refused, replayed

# A rendered response, and whether the view returned it rather than raised.
Answer = tuple[HttpResponseBase, bool]


class Replay(HttpResponse):
    """A stored response on its way out; nothing on the way may dress it up again."""


def respond_once(policy: IdempotencyPolicy, request: Any, run: Callable[[], Answer]) -> HttpResponseBase:
    """Run the view under its guard, or answer in its place.

    Exceptions of ``run`` pass through, after everything was rolled back.
    """
    guard: RecordGuard | None = None
    try:
        guard = policy.idempotency_guard(request)
        if guard is None:
            return run()[0]
        with guard:
            with refusals_of_others():
                answer = run()
            settle(policy, request, guard, answer)
        return answer[0]
    except AlreadyCompleted as done:
        return replay(policy, request, guard, done)
    except IdempotencyError as error:
        return refuse(policy, request, guard, error)


async def respond_once_async(
    policy: IdempotencyPolicy, request: Any, run: Callable[[], Awaitable[Answer]]
) -> HttpResponseBase:
    """The same for an async view. What may touch the database or the disk runs on its thread."""
    guard: RecordGuard | None = None
    try:
        guard = await sync_to_async(policy.idempotency_guard)(request)
        if guard is None:
            return (await run())[0]
        async with AsyncGuard(guard):
            with refusals_of_others():
                answer = await run()
            await sync_to_async(settle)(policy, request, guard, answer)
        return answer[0]
    except AlreadyCompleted as done:
        return await sync_to_async(replay)(policy, request, guard, done)
    except IdempotencyError as error:
        return await sync_to_async(refuse)(policy, request, guard, error)


@contextmanager
def refusals_of_others() -> Iterator[None]:
    """Within the view, another guard's refusal is about another key than this caller's. That it is
    busy or cannot be reached is worth a retry all the same."""
    try:
        yield
    except (OperationInProgress, StoreUnavailable):
        raise
    except IdempotencyError as error:
        raise RuntimeError(f"An idempotent operation within the view was refused: {error}") from error


def settle(policy: IdempotencyPolicy, request: Any, guard: RecordGuard, answer: Answer) -> None:
    response, returned = answer
    if not policy.should_store_idempotency_response(request, response):
        return guard.abandon()
    stored = StoredResponse.from_http(response, store_body=policy.idempotency_store_body)
    guard.complete(stored, keep_writes=returned)


def replay(
    policy: IdempotencyPolicy, request: Any, guard: RecordGuard | None, done: AlreadyCompleted
) -> HttpResponseBase:
    if guard is None or done.guard is not guard:
        # Another guard's, which the view entered itself: its response is not this caller's.
        raise done
    policy.check_idempotent_replay(request, done.record)
    announce(replayed, guard.key, using=guard.using, record=done.record)
    return done.record.response.to_http(Replay)


def refuse(
    policy: IdempotencyPolicy, request: Any, guard: RecordGuard | None, error: IdempotencyError
) -> HttpResponse:
    key = guard.key if guard else None
    using = guard.using if guard else policy.get_idempotency_using(request)
    announce(refused, key, using=using, error=error)
    return problem_response(error)
