from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from asgiref.sync import sync_to_async

from idempotency.exceptions import OperationInProgress

T = TypeVar("T")
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.05


class Guard(Protocol):
    """What every mechanism's guard is: a context manager that is entered at most once per key."""

    @property
    def is_open(self) -> bool:
        """Whether it has been entered, and must be left."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> object: ...

    def take_patience(self) -> float | None:
        """Seconds for which entering would wait for others (None: for ever); from now on it does not."""
        ...

    def lose_patience(self) -> None:
        """The next attempt is the last one."""

    def adopt(self) -> None:
        """Note that it is open in the current context, which another thread's knows nothing of."""

    def disown(self) -> None:
        """Undo that."""


G = TypeVar("G", bound=Guard)


class AsyncGuard(Generic[G]):
    """A guard for ``async with``: entered and left on the thread that has the request's
    connection, and left whole even when the request is cancelled meanwhile."""

    def __init__(self, guard: G) -> None:
        self.guard = guard

    async def __aenter__(self) -> G:
        # Waiting on the thread would keep those from it who are waited for.
        patience = await to_the_end(self.guard.take_patience)
        give_up_at = None if patience is None else time.monotonic() + patience
        while True:
            is_last = give_up_at is not None and time.monotonic() >= give_up_at
            if is_last:
                self.guard.lose_patience()
            try:
                await to_the_end(self.guard.__enter__)
                break
            except asyncio.CancelledError as cancelled:
                if self.guard.is_open:
                    await to_the_end(self.guard.__exit__, type(cancelled), cancelled, None)
                raise
            except OperationInProgress:
                if is_last:
                    raise
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))
        # What the thread's copy of the context learned, this one must know for nested guards.
        self.guard.adopt()
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
            self.guard.disown()


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
            if not task.done():  # the coroutine is closed, and not the call's own failure
                raise
            break
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()
