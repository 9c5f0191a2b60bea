from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from asgiref.sync import sync_to_async

T = TypeVar("T")


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
        try:
            await to_the_end(self.guard.__enter__)
        except asyncio.CancelledError as cancelled:
            if self.guard.is_open:
                await to_the_end(self.guard.__exit__, type(cancelled), cancelled, None)
            raise
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
            break
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()
