from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from copy import copy
from datetime import timedelta
from functools import wraps
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async

from idempotency.asynchronous import to_the_end
from idempotency.callables import refuse_generators
from idempotency.clock import now
from idempotency.exceptions import LockAlreadyHeld, LockBusy, LockLost
from idempotency.keys import valid_id
from idempotency.locks.base import LONGEST_PAUSE, SHORTEST_PAUSE, BaseLockStore, Ticket
from idempotency.locks.held import HeldLock, adopt, disown, held_by, held_here, key_of
from idempotency.locks.steps import acquire, leave
from idempotency.renewal import renew
from idempotency.signals import announce, claimed, refused

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="HeldLock | None")
Seconds = float | timedelta
OnBusy = Literal["raise", "skip"]
# Seconds: a year, which no lock should be held or waited for.
LONGEST = 31_536_000


@overload
def lock(
    name: str | Callable[..., str],
    *,
    ttl: Seconds | None = None,
    wait: Seconds | None = 0,
    on_busy: Literal["raise"] = "raise",
    renew_for: Seconds | None = None,
    alias: str = "default",
) -> Lock[HeldLock]: ...
@overload
def lock(
    name: str | Callable[..., str],
    *,
    ttl: Seconds | None = None,
    wait: Seconds | None = 0,
    on_busy: Literal["skip"],
    renew_for: Seconds | None = None,
    alias: str = "default",
) -> Lock[HeldLock | None]: ...
def lock(
    name: str | Callable[..., str],
    *,
    ttl: Seconds | None = None,
    wait: Seconds | None = 0,
    on_busy: OnBusy = "raise",
    renew_for: Seconds | None = None,
    alias: str = "default",
) -> Lock[Any]:
    """``with lock("order:42") as held: …``: never two at once, in all processes. Also ``async with``, and a
    decorator, whose ``name`` may be a function of the arguments.

    ``ttl``: seconds (or a timedelta) until the medium frees it by itself, by default the alias's TTL.
    ``wait``: seconds to wait for another holder; None is for as long as it takes. ``renew_for``: for how
    long it is renewed in the background, by default the alias's RENEW_FOR; 0 is not at all.
    ``on_busy="skip"``: instead of raising LockBusy, ``held`` is None, and a decorated function is not
    called and returns None. ``alias``: of IDEMPOTENCY_LOCKS, read when it is entered.

    Entering raises LockBusy, LockAlreadyHeld (it is not reentrant) or StoreUnavailable. Leaving raises
    LockLost when the lock was lost meanwhile, unless the block raised something itself.

    It says nothing of whoever comes after the release: see ``first_wins()``.
    """
    return Lock(name, ttl=ttl, wait=wait, on_busy=on_busy, renew_for=renew_for, alias=alias)


def seconds(value: Seconds, what: str, *, least: float = 0.0) -> float:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not least <= number <= LONGEST:
        raise ValueError(
            f"{what} is a number of seconds, or a timedelta, from {least:g} to {LONGEST:g}, not {value!r}."
        )
    return float(number)


class Lock(Generic[H]):
    """What ``lock()`` makes. It may be entered many times, by many at once."""

    def __init__(
        self,
        name: str | Callable[..., str],
        *,
        ttl: Seconds | None = None,
        wait: Seconds | None = 0,
        on_busy: OnBusy = "raise",
        renew_for: Seconds | None = None,
        alias: str = "default",
    ) -> None:
        if on_busy not in ("raise", "skip"):
            raise ValueError(f"on_busy is 'raise' or 'skip', not {on_busy!r}.")
        self.name = name if callable(name) else valid_id(name, "lock's name")
        self.ttl = None if ttl is None else seconds(ttl, "ttl", least=0.001)
        self.wait = None if wait is None else seconds(wait, "wait")
        self.renew_for = None if renew_for is None else seconds(renew_for, "renew_for")
        self.on_busy, self.alias = on_busy, alias
        # What was entered and not left, in that order; None stands for a block that has no lock.
        self._entered: list[HeldLock | None] = []

    def __enter__(self) -> H:
        return self._enter(self._acquire(self.wait))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if held := self._take_out():
            leave(held, error)

    async def __aenter__(self) -> H:
        give_up_at = None if self.wait is None else now() + self.wait
        while True:
            acquired: list[HeldLock] = []
            try:
                await to_the_end(self._try, acquired)
                return self._enter(acquired[0])
            except asyncio.CancelledError:
                if acquired:
                    with suppress(LockLost):
                        await to_the_end(leave, acquired[0])
                raise
            except LockBusy as busy:
                if give_up_at is not None and now() >= give_up_at:
                    return self._enter(await sync_to_async(self._refuse)(busy))
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if held := self._take_out():
            try:
                await to_the_end(leave, held, error)
            finally:
                disown(held)

    def named(self, name: str) -> Lock[H]:
        """The same with another name."""
        other = copy(self)
        other.name, other._entered = valid_id(name, "lock's name"), []
        return other

    @overload
    def __call__(
        self: Lock[HeldLock | None], function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R | None]]: ...
    @overload
    def __call__(self: Lock[HeldLock | None], function: Callable[P, R]) -> Callable[P, R | None]: ...
    @overload
    def __call__(self: Lock[HeldLock], function: Callable[P, R]) -> Callable[P, R]: ...
    def __call__(self, function: Callable[P, Any]) -> Callable[P, Any]:
        refuse_generators(function, "@lock(…)")

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            with self._for(*args, **kwargs) as held:
                return function(*args, **kwargs) if held else None

        @wraps(function)
        async def async_wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with self._for(*args, **kwargs) as held:
                return await function(*args, **kwargs) if held else None

        return async_wrapper if iscoroutinefunction(function) else wrapper

    def _for(self, *args: Any, **kwargs: Any) -> Lock[H]:
        """The lock of one call."""
        return self.named(self.name(*args, **kwargs) if callable(self.name) else self.name)

    def _acquire(self, wait: float | None) -> HeldLock | None:
        try:
            return self.hold(wait)
        except LockBusy as busy:
            return self._refuse(busy)

    def _try(self, acquired: list[HeldLock]) -> None:
        acquired.append(self.hold(0))

    def hold(self, wait: float | None) -> HeldLock:
        """Acquire it, without a block. Raises LockBusy, and announces no refusal."""
        if callable(self.name):
            raise TypeError("A lock whose name is a function is a decorator: elsewhere, give it a name.")
        if held_here(self.name, self.alias):
            raise LockAlreadyHeld(
                f"The lock {self.name!r} is held by this very caller: take it once, around everything."
            )
        store = BaseLockStore.at(self.alias)
        ticket, ttl = Ticket(self.name), self.ttl or store.ttl
        busy_for = acquire(store, ticket, ttl, wait)
        if busy_for is not None:
            raise LockBusy(self.name, math.ceil(busy_for))
        renew_for = store.renew_for if self.renew_for is None else self.renew_for
        held = HeldLock(self, store, ticket, ttl, renew_for)
        if renew_for and store.is_renewable(ticket):
            try:
                renew(held)
            except BaseException:
                held.close()
                raise
        announce(claimed, held.key, using=store.database, mechanism="lock")
        return held

    def _refuse(self, busy: LockBusy) -> HeldLock | None:
        store = BaseLockStore.at(self.alias)
        key = key_of(busy.name, self.alias)
        announce(refused, key, using=store.database, mechanism="lock", error=busy)
        if self.on_busy == "skip":
            return None
        raise busy

    def _enter(self, held: HeldLock | None) -> H:
        self._entered.append(held)
        if held:
            adopt(held)
        return cast(H, held)

    def _take_out(self) -> HeldLock | None:
        """What the block has held that is left now. Left in another context than it was entered (on another
        thread, by another task), it is the one that is there: of several, all but the last were lost."""
        held = held_by(self)
        while self._entered:
            left = held or (None if None in self._entered else self._entered[0])
            # Two may be leaving at once.
            with suppress(ValueError):
                self._entered.remove(left)
                return left
        return held
