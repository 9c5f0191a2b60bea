from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction

from idempotency.functions import GuardSource, IdempotentFunction
from idempotency.keys import Scope

P = ParamSpec("P")
R = TypeVar("R")


@overload
def idempotent(
    *,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
    retention: timedelta | None = None,
    wait: timedelta | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
@overload
def idempotent(
    *,
    guard: GuardSource,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R | None]]: ...
def idempotent(
    *,
    guard: GuardSource | None = None,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
    retention: timedelta | None = None,
    wait: timedelta | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
    """Make all calls of a function with the same key, sync or async, happen once.

    ``key``: the name of the argument that is the key (its ``str()`` is), or a function of the same
    arguments that returns it. ``operation``: a stable name, by default module and name. ``scope``: a
    function of the arguments that says whose key it is. ``using``: alias of the work's database.

    By default a record guards it: the arguments are the payload, and the return value is stored as JSON
    and given back to later calls. With ``guard``, such as ``unique_ids()`` or ``first_wins()``, nothing
    is stored: later calls are skipped, and return None.

    The call raises OperationInProgress, StoreUnavailable, InvalidKey, and with a record also
    FingerprintMismatch, NotFingerprintable (an argument has no digest; nothing ran) or NotStorable (the
    result is not JSON; rolled back). An exception of the function rolls back its writes in the
    database and frees the key.
    """
    if guard is not None and (retention is not None or wait is not None):
        raise TypeError("retention and wait are a record's: leave them out, or leave out guard.")
    if guard is not None and (isinstance(guard, type) or not hasattr(guard, "guard_for")):
        raise TypeError(f"guard is unique_ids(…), first_wins(…) or the like, not {guard!r}.")

    def decorator(function: Callable[P, R]) -> Callable[P, R | None]:
        call = IdempotentFunction(function, key, operation, scope, using, retention, wait, guard)
        if iscoroutinefunction(function):
            return cast(Callable[P, R], call.async_wrapper())
        return cast(Callable[P, R], call.sync_wrapper())

    return decorator
