from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from idempotency.functions import IdempotentFunction
from idempotency.keys import Scope

P = ParamSpec("P")
R = TypeVar("R")


def idempotent(
    *,
    key: str | Callable[..., str],
    operation: str | None = None,
    scope: Callable[..., Scope] | None = None,
    using: str | Callable[..., str] | None = None,
    retention: timedelta | None = None,
    wait: timedelta | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make all calls of a function with the same key, sync or async, happen once.

    ``key``: the name of the argument that is the key (its ``str()`` is), or a function of the same
    arguments that returns it. ``operation``: a stable name, by default module and name. ``scope``: a
    function of the arguments that says whose key it is. The arguments are the payload; the return
    value is stored as JSON and given back to later calls.

    The call raises OperationInProgress, FingerprintMismatch, StoreUnavailable, NotFingerprintable
    (an argument has no digest; nothing ran) or NotStorable (the result is not JSON; rolled back). An
    exception of the function rolls back its writes in the records' database and frees the key.
    """

    def decorator(function: Callable[P, R]) -> Callable[P, R]:
        call = IdempotentFunction(function, key, operation, scope, using, retention, wait)
        if iscoroutinefunction(function):
            return cast(Callable[P, R], call.async_wrapper())
        return cast(Callable[P, R], call.sync_wrapper())

    return decorator
