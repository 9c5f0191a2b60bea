"""A function that happens once per key.

By a record: its arguments are the payload, its result the response. By any other guard: whoever comes
later is skipped.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import date
from functools import cached_property, wraps
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from asgiref.sync import iscoroutinefunction, sync_to_async

from idempotency.asynchronous import AsyncGuard, Guard
from idempotency.callables import refuse_generators
from idempotency.exceptions import AlreadyCompleted, AlreadyHandled, IdempotencyError, InvalidKey
from idempotency.fingerprints import Fingerprint
from idempotency.keys import Scope, ScopedKey, principal_of, valid_id, valid_key
from idempotency.models import IdempotencyRecord
from idempotency.modes import record_guard
from idempotency.payloads import arguments_material
from idempotency.records import RecordGuard
from idempotency.responses import StoredResponse
from idempotency.shards.routing import database_for
from idempotency.signals import announce, refused, replayed
from idempotency.steps import Operation

P = ParamSpec("P")
R = TypeVar("R")


class KeyedGuard(Guard, Protocol):
    key: ScopedKey
    mechanism: str

    @property
    def database(self) -> str | None: ...


class GuardSource(Protocol):
    """What ``@idempotent(guard=…)`` takes: it makes a guard per key. Entering raises AlreadyHandled with
    that guard where the function is to be skipped."""

    def guard_for(self, key: ScopedKey, *, using: str | None = None) -> KeyedGuard: ...


class GuardedDecorator(Protocol):
    """Of functions that return None when they are skipped."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | None]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | None]: ...


class GuardedFunction(ABC):
    """A function, sync or async, together with how to make a guard out of its arguments."""

    def __init__(self, function: Callable[..., Any], key: str | Callable[..., Any], what: str) -> None:
        refuse_generators(function, what)
        self.function = function
        self.signature = inspect.signature(function)
        if isinstance(key, str) and key not in self.signature.parameters:
            raise TypeError(f"{function.__qualname__}() has no argument {key!r} to take the key from.")
        self.key = key

    @abstractmethod
    def guard(self, *args: Any, **kwargs: Any) -> KeyedGuard:
        """Raises InvalidKey."""

    def complete(self, guard: KeyedGuard, result: Any) -> None:
        if isinstance(guard, RecordGuard):
            guard.complete(StoredResponse.from_result(result))

    def bound(self, args: Any, kwargs: Any) -> inspect.BoundArguments:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound

    def key_of(self, args: Any, kwargs: Any, bound: inspect.BoundArguments | None = None) -> Any:
        if callable(self.key):
            return self.key(*args, **kwargs)
        return (bound or self.bound(args, kwargs)).arguments[self.key]

    @cached_property
    def is_async(self) -> bool:
        return iscoroutinefunction(self.function)

    def wrapper(self) -> Callable[..., Any]:
        return self.async_wrapper() if self.is_async else self.sync_wrapper()

    def sync_wrapper(self) -> Callable[..., Any]:
        @wraps(self.function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return self.run(self.guard(*args, **kwargs), args, kwargs)

        return wrapper

    def async_wrapper(self) -> Callable[..., Any]:
        @wraps(self.function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await self.run_async(self.guard(*args, **kwargs), args, kwargs)

        return wrapper

    def run(self, guard: KeyedGuard, args: Any, kwargs: Any) -> Any:
        """Under the guard of these arguments."""
        foreign: list[IdempotencyError] = []
        try:
            with guard:
                with noted(foreign):
                    result = self.function(*args, **kwargs)
                self.complete(guard, result)
            return result
        except AlreadyCompleted as done:
            return replayed_result(guard, done)
        except IdempotencyError as error:
            if error not in foreign:
                announce_refusal(guard, error)
            if is_skipped(guard, error):
                return None
            raise

    async def run_async(self, guard: KeyedGuard, args: Any, kwargs: Any) -> Any:
        foreign: list[IdempotencyError] = []
        try:
            async with AsyncGuard(guard):
                with noted(foreign):
                    result = await self.function(*args, **kwargs)
                self.complete(guard, result)
            return result
        except AlreadyCompleted as done:
            return await sync_to_async(replayed_result)(guard, done)
        except IdempotencyError as error:
            if error not in foreign:
                await sync_to_async(announce_refusal)(guard, error)
            if is_skipped(guard, error):
                return None
            raise


class IdempotentFunction(GuardedFunction):
    def __init__(
        self,
        function: Callable[..., Any],
        key: str | Callable[..., str],
        operation: str | None,
        scope: Callable[..., Scope] | None,
        using: str | Callable[..., str] | None,
        source: GuardSource | None = None,
        shard_key: Callable[..., Scope] | None = None,
        **record_options: Any,
    ) -> None:
        super().__init__(function, key, "@idempotent")
        self.operation = operation or f"{function.__module__}.{function.__qualname__}"
        self.scope, self.using, self.source = scope, using, source
        self.shard_key = shard_key
        if isinstance(function, Operation) and record_options["mode"] == "lease":
            record_options["steps"] = record_options["steps"] or function
        self.record_options = record_options

    def guard(self, *args: Any, **kwargs: Any) -> KeyedGuard:
        bound = self.bound(args, kwargs)
        scope = self.scope(*args, **kwargs) if self.scope else ("function", "")
        using = self.database(args, kwargs, scope if self.scope else None)
        key = ScopedKey(principal_of(scope), self.operation, self._valid_key(bound, args, kwargs))
        if self.source:
            return self.source.guard_for(key, using=using)
        fingerprint = Fingerprint(arguments_material(self.function, bound))
        is_answer = self.record_options["steps"] is self.function
        return record_guard(key, fingerprint, using=using, is_answer=is_answer, **self.record_options)

    def database(self, args: Any, kwargs: Any, scope: Scope | None) -> str:
        return work_database(self.using, self.shard_key, args, kwargs, scope)

    def _valid_key(self, bound: inspect.BoundArguments, args: Any, kwargs: Any) -> str:
        key = self.key_of(args, kwargs, bound)
        if key is None:
            raise InvalidKey(f"{self.operation} was called with None for its key.")
        # Nothing compares the arguments there: what has no text of its own must not be taken for another.
        if self.source and not isinstance(key, date):
            return valid_id(key, "key")
        return valid_key(str(key))


def work_database(
    using: str | Callable[..., str] | None,
    shard_key: Callable[..., Scope] | None,
    args: Any,
    kwargs: Any,
    scope: Scope | None = None,
) -> str:
    """Of a function's work: what it says, or where its shard key is, or its scope. Raises Unroutable."""
    named = using(*args, **kwargs) if callable(using) else using
    if named:
        return named
    routed = shard_key(*args, **kwargs) if shard_key else scope
    return database_for(IdempotencyRecord, routed, instead="pass shard_key= or using=")


@contextmanager
def noted(foreign: list[IdempotencyError]) -> Iterator[None]:
    """Refusals from within the function are about other keys, and announced where they came from."""
    try:
        yield
    except IdempotencyError as error:
        foreign.append(error)
        raise


def announce_refusal(guard: KeyedGuard, error: IdempotencyError) -> None:
    announce(refused, guard.key, using=guard.database, mechanism=guard.mechanism, error=error)


def is_skipped(guard: KeyedGuard, error: IdempotencyError) -> bool:
    """Whether there is nothing left to do for this call; another guard's refusal says nothing of it."""
    return isinstance(error, AlreadyHandled) and error.guard is guard


def replayed_result(guard: KeyedGuard, done: AlreadyCompleted) -> Any:
    if done.guard is not guard:  # one that the function entered itself
        raise done
    announce(replayed, guard.key, using=guard.database, record=done.record)
    return done.record.response.result
