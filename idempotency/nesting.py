"""Which guards are open on a connection, and whether they are this request's.

Concurrent async requests may share a thread and so a connection (one AsyncClient's always do). A
guard in the middle of another request's transaction would commit, or lose, with it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency.exceptions import CallsItself, ForeignTransaction
from idempotency.keys import ScopedKey


class KeyedGuard(Protocol):
    key: ScopedKey


_mine: ContextVar[tuple[KeyedGuard, ...]] = ContextVar("idempotency_guards", default=())


class Nesting(NamedTuple):
    open_guards: list[KeyedGuard]
    guard: KeyedGuard


def entered(connection: BaseDatabaseWrapper, guard: KeyedGuard) -> Nesting:
    """Note that the guard is open on the connection, or refuse.

    Raises ForeignTransaction for another request's transaction, and CallsItself for a key
    that this very transaction is working on: its own lock would let it in.
    """
    open_guards: list[KeyedGuard] = connection.__dict__.setdefault("idempotency_guards", [])
    mine = _mine.get()
    if any(other not in mine for other in open_guards):
        raise ForeignTransaction(
            "Another request's idempotent operation is open on this database connection. Serve async "
            "views under ASGI, where each request has a thread of its own, or one request at a time."
        )
    if any(other.key == guard.key for other in open_guards):
        raise CallsItself
    open_guards.append(guard)
    adopted(guard)
    return Nesting(open_guards, guard)


def left(nesting: Nesting) -> None:
    """May be told twice: when it commits, and when it is left."""
    if nesting.guard in nesting.open_guards:
        nesting.open_guards.remove(nesting.guard)
    disowned(nesting.guard)


def innermost(attribute: str) -> Any:
    """Of the guards whose blocks the caller is in, the last one's that has it; None where none has."""
    values = (getattr(guard, attribute, None) for guard in reversed(_mine.get()))
    return next((value for value in values if value is not None), None)


def adopted(guard: KeyedGuard) -> None:
    _mine.set((*_mine.get(), guard))


def disowned(guard: KeyedGuard) -> None:
    _mine.set(tuple(other for other in _mine.get() if other is not guard))
