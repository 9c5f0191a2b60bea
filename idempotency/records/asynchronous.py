from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from asgiref.sync import sync_to_async

from idempotency.records.guard import RecordGuard
from idempotency.records.nesting import adopted, disowned

T = TypeVar("T")


class AsyncRecordGuard:
    """A RecordGuard for ``async with``: entered and left on the thread that has the request's
    connection, and left whole even when the request is cancelled meanwhile."""

    def __init__(self, guard: RecordGuard) -> None:
        self.guard = guard

    async def __aenter__(self) -> RecordGuard:
        try:
            await to_the_end(self.guard.__enter__)
        except asyncio.CancelledError as cancelled:
            if self.guard.is_open:
                await to_the_end(self.guard.__exit__, type(cancelled), cancelled, None)
            raise
        # What the thread's copy of the context learned, this one must know for nested guards.
        adopted(self.guard)
        return self.guard

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await to_the_end(self.guard.__exit__, kind, error, traceback)
        finally:
            disowned(self.guard)


async def to_the_end(call: Callable[..., T], *args: object) -> T:
    """Await the call on the request's thread; a cancellation is delivered after it has ended."""
    task = asyncio.ensure_future(sync_to_async(call, thread_sensitive=True)(*args))
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()
