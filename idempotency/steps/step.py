from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from idempotency.callables import refuse_coroutines, refuse_generators
from idempotency.nesting import innermost

P = ParamSpec("P")
R = TypeVar("R")
Refusals = tuple[type[Exception], ...]


class Step(Generic[P, R]):
    """A function that is done once in its operation's run, and then gives back what it returned."""

    kind: str

    def __init__(self, function: Callable[P, R], refusals: Refusals) -> None:
        refuse_generators(function, f"@{self.kind}")
        refuse_coroutines(function, f"@{self.kind}")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in refusals):
            raise TypeError(f"refusals are classes of exceptions, not {refusals!r}.")
        update_wrapper(self, function)
        self.function = function
        self.name = function.__qualname__
        self.signature = inspect.signature(function)
        self.refusals = refusals

    @property
    def facts(self) -> tuple[str, ...]:
        """What of it must be the same in whatever goes on with a run."""
        return (self.name, self.kind)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        run = innermost("run")
        if run is None:
            raise RuntimeError(f"{self.name}() is a step: call it in an operation that runs under a lease.")
        result: R = self._done_in(run, bound)
        return result

    def _done_in(self, run: Any, bound: inspect.BoundArguments) -> Any:
        raise NotImplementedError


class DatabaseStep(Step[P, R]):
    kind = "database_step"

    def _done_in(self, run: Any, bound: inspect.BoundArguments) -> Any:
        return run.write(self, bound)


@dataclass(frozen=True)
class Done:
    """Returned by ``reconcile``: the call had its effect, and this is its result."""

    result: Any = None


NOT_DONE: Literal["not done"] = "not done"
"""Returned by ``reconcile``: it had none, and never will."""
STILL_UNKNOWN: Literal["still unknown"] = "still unknown"
"""Returned by ``reconcile``: whoever was asked does not know (yet)."""

Reconciled = Done | Literal["not done", "still unknown"]


class OutsideCall(Step[P, R]):
    kind = "outside_call"

    def __init__(
        self,
        function: Callable[P, R],
        when_broken: Literal["retry", "unknown"] | Callable[..., Reconciled],
        refusals: Refusals,
    ) -> None:
        super().__init__(function, refusals)
        if not callable(when_broken) and when_broken not in ("retry", "unknown"):
            raise TypeError(f"when_broken is 'retry', 'unknown' or a function, not {when_broken!r}.")
        self.reconcile = when_broken if callable(when_broken) else None
        self.is_repeatable = when_broken == "retry"
        self.meaning = "reconcile" if self.reconcile else str(when_broken)

    @property
    def facts(self) -> tuple[str, ...]:
        return (*super().facts, self.meaning)

    @property
    def downstream_key(self) -> str:
        """For whom it calls, within it or its ``reconcile``: the same each time that this very call is made
        again, whoever makes it. A UUID."""
        run = innermost("run")
        if run is None or run.current is not self:
            raise RuntimeError(f"{self.name}.downstream_key is of a call under way: ask for it within it.")
        key: str = run.downstream_key
        return key

    def _done_in(self, run: Any, bound: inspect.BoundArguments) -> Any:
        return run.call(self, bound)


def database_step(*, refusals: Refusals = ()) -> Callable[[Callable[P, R]], DatabaseStep[P, R]]:
    """``@database_step()`` on a function that writes to the record's database. Its writes and the point that
    is reached commit together, and only while the lease is one's own.

    ``refusals``: exceptions that are an outcome of the step. What it wrote is rolled back, that it was
    refused is kept, and whoever goes on with the run is told so again. Any other exception leaves the
    point where it was.
    """
    return lambda function: DatabaseStep(function, refusals)


def outside_call(
    *, when_broken: Literal["retry", "unknown"] | Callable[..., Reconciled], refusals: Refusals = ()
) -> Callable[[Callable[P, R]], OutsideCall[P, R]]:
    """``@outside_call(when_broken="retry")`` on a function that calls somebody outside of the database. That
    it begins is committed before, its result after; no transaction is open meanwhile.

    ``when_broken`` says what it means that there is no result, after a crash or an exception:

    - ``"retry"``: it may be called again. Pass ``step.downstream_key`` to an other side that honours it.
    - a function of the same arguments, which asks the other side, and returns ``Done(result)``, ``NOT_DONE``
      or ``STILL_UNKNOWN``.
    - ``"unknown"``: nobody can tell. The operation's outcome is unknown until an operator decides.

    ``refusals``: exceptions which say that the other side did nothing, and will do nothing (a card declined).
    They are its result, and raised again for whoever goes on with the run; their arguments are kept as JSON.
    """
    return lambda function: OutsideCall(function, when_broken, refusals)
