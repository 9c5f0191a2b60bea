"""The way of a guarded request, whatever kind of view it is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from idempotency.asynchronous import AsyncGuard
from idempotency.exceptions import (
    AlreadyCompleted,
    IdempotencyError,
    OperationInProgress,
    StoreUnavailable,
    TransitionRejected,
)
from idempotency.policies import IdempotencyPolicy
from idempotency.records import RecordGuard
from idempotency.responses import StoredResponse
from idempotency.signals import announce, refused, replayed
from idempotency.tokens import TokenGuard

FAILED_OPEN = "Idempotency-Failed-Open"

# A rendered response, and whether the view returned it rather than raised.
Answer = tuple[HttpResponseBase, bool]


class Replay(HttpResponse):
    """A stored response on its way out; nothing on the way may dress it up again."""


def respond_once(policy: IdempotencyPolicy, request: Any, run: Callable[[], Answer]) -> HttpResponseBase:
    """Run the view under its guards, or answer in its place.

    Exceptions of ``run`` pass through, after everything was rolled back.
    """
    guard = RequestGuard(policy, request)
    try:
        with guard:
            with guard.around_view():
                answer = run()
            guard.settle(answer)
        return guard.marked(answer[0])
    except AlreadyCompleted as done:
        return guard.replay(done)
    except IdempotencyError as error:
        return guard.refuse(error)


async def respond_once_async(
    policy: IdempotencyPolicy, request: Any, run: Callable[[], Awaitable[Answer]]
) -> HttpResponseBase:
    """The same for an async view. What may touch the database or the disk runs on its thread."""
    guard = RequestGuard(policy, request)
    try:
        async with AsyncGuard(guard):
            with guard.around_view():
                answer = await run()
            await sync_to_async(guard.settle)(answer)
        return guard.marked(answer[0])
    except AlreadyCompleted as done:
        return await sync_to_async(guard.replay)(done)
    except IdempotencyError as error:
        return await sync_to_async(guard.refuse)(error)


class RequestGuard:
    """The guards that a view's policy asks for, as one: the record's, and within it the token's.

    A replay is the record's answer, so it needs no token. A request that brings neither key nor token,
    to a view that requires none, passes.
    """

    def __init__(self, policy: IdempotencyPolicy, request: Any) -> None:
        self.policy = policy
        self.request = request
        self.record: RecordGuard | None = None
        self.token: TokenGuard | None = None
        self.is_open = False
        self._refusing = "record"
        self._entered = ExitStack()

    @property
    def _guards(self) -> list[RecordGuard | TokenGuard]:
        return [guard for guard in (self.record, self.token) if guard]

    def take_patience(self) -> float | None:
        return 0.0  # as its guards say

    def lose_patience(self) -> None:
        """It has none."""

    def adopt(self) -> None:
        for guard in self._guards:
            guard.adopt()

    def disown(self) -> None:
        for guard in self._guards:
            guard.disown()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            record = self.policy.idempotency_guard(self.request)
            if record:
                self.record = record
                entered.enter_context(record)
            self._refusing = "token"
            try:
                self.token = self.policy.idempotency_token_guard(self.request, record)
                if self.token:
                    entered.enter_context(self.token)
            except BaseException:
                if record:
                    # The view has not begun: it is known what it has done.
                    record.abandon()
                raise
            self._refusing = "record" if record else "token"
            self._entered = entered.pop_all()
        self.is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_open = False
        self._entered.__exit__(kind, error, traceback)

    @contextmanager
    def around_view(self) -> Iterator[None]:
        """Within the view, another guard's refusal is about another key than this caller's. That it is
        busy or cannot be reached is worth a retry all the same, and a status is nobody's key."""
        try:
            yield
        except (OperationInProgress, StoreUnavailable, TransitionRejected):
            raise
        except IdempotencyError as error:
            is_own = self.record is not None and getattr(error, "guard", None) is self.record
            if is_own or not self._guards:
                raise
            raise RuntimeError(f"An idempotent operation within the view was refused: {error}") from error

    def settle(self, answer: Answer) -> None:
        response, returned = answer
        if not self._guards:
            return
        if not self.policy.should_store_idempotency_response(self.request, response):
            if self.record:
                self.record.abandon(is_known=response.status_code < 500)
            if self.token:
                self.token.abandon()
            return
        if self.token:
            self.token.complete(succeeded=response.status_code < 400, keep_writes=returned)
        if self.record:
            stored = StoredResponse.from_http(response, store_body=self.policy.idempotency_store_body)
            self.record.complete(stored, keep_writes=returned)

    def marked(self, response: HttpResponseBase) -> HttpResponseBase:
        if self.token and self.token.failed_open:
            response.headers[FAILED_OPEN] = "token"
        return response

    def replay(self, done: AlreadyCompleted) -> HttpResponseBase:
        if self.record is None or done.guard is not self.record:
            # Another guard's, which the view entered itself: its response is not this caller's.
            raise done
        self.policy.check_idempotent_replay(self.request, done.record)
        announce(replayed, self.record.key, using=self.record.using, record=done.record)
        return done.record.response.to_http(Replay)

    def refuse(self, error: IdempotencyError) -> HttpResponse:
        """Say no. Without the guard, the request did not even say what it would be refused for."""
        key, using = None, None
        if self._refusing == "token" and self.token:
            key, using = self.token.key, self.token.store.database
        elif self._refusing == "record":
            key = self.record.key if self.record else None
            using = self.policy.get_idempotency_using(self.request)
        announce(refused, key, using=using, mechanism=self._refusing, error=error)
        return self.policy.get_idempotency_refusal(self.request, error)
