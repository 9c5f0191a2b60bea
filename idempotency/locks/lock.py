from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from datetime import timedelta
from functools import wraps
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async

from idempotency.asynchronous import to_the_end
from idempotency.exceptions import LockAlreadyHeld, LockBusy, LockLost, StoreUnavailable
from idempotency.functions import refuse_generators
from idempotency.keys import valid_id
from idempotency.locks import renewal
from idempotency.locks.base import LONGEST_PAUSE, SHORTEST_PAUSE, BaseLockStore, Ticket, now
from idempotency.locks.held import HeldLock, adopt, disown, held_by, held_here, key_of
from idempotency.signals import abandoned, announce, claimed, completed, refused

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="HeldLock | None")
Seconds = float | timedelta
OnBusy = Literal["raise", "skip"]
ATTEMPTS = 2
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

    def __enter__(self) -> H:
        return self._enter(self._acquire(self.wait))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if held := held_by(self):
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
                    await to_the_end(leave, acquired[0])
                raise
            except LockBusy as busy:
                if give_up_at is not None and now() >= give_up_at:
                    return self._enter(await sync_to_async(self._refuse)(busy))
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if held := held_by(self):
            try:
                await to_the_end(leave, held, error)
            finally:
                disown(held)

    def named(self, name: str) -> Lock[H]:
        """The same with another name."""
        other = copy(self)
        other.name = valid_id(name, "lock's name")
        return other

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        refuse_generators(function, "@lock(…)")

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._for(*args, **kwargs) as held:
                return function(*args, **kwargs) if held else cast(R, None)

        @wraps(function)
        async def async_wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with self._for(*args, **kwargs) as held:
                return await cast(Any, function)(*args, **kwargs) if held else None

        return cast(Callable[P, R], async_wrapper) if iscoroutinefunction(function) else wrapper

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
        if held_here(self.name):
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
                renewal.renew(held)
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
        if held:
            adopt(held)
        return cast(H, held)


def acquire(store: BaseLockStore, ticket: Ticket, ttl: float, wait: float | None) -> float | None:
    """``store.acquire()``; a reply may be lost, so it is asked again, with the same ticket."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return store.acquire(ticket, ttl, wait)
        except BaseException as error:
            if isinstance(error, StoreUnavailable) and attempt < ATTEMPTS:
                continue
            # It may be held after all, by one who never gets in: also when a signal's handler has raised.
            if ticket.asked_at:
                with suppress(Exception):
                    store.release(ticket)
            raise
    return None


def leave(held: HeldLock, error: BaseException | None = None) -> None:
    renewal.leave(held)
    disown(held)
    kept = held.close()
    over = completed if kept and error is None else abandoned
    announce(over, held.key, using=held.store.database, mechanism="lock")
    if not kept and error is None:
        raise LockLost(held.name)
