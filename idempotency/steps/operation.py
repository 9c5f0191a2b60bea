from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from idempotency.callables import refuse_coroutines, refuse_generators
from idempotency.keys import digest
from idempotency.models import OperationRun
from idempotency.nesting import innermost
from idempotency.steps.journal import BEGUN, loaded
from idempotency.steps.step import OutsideCall, Step

P = ParamSpec("P")
R = TypeVar("R")

MAX_NAME = 255
_registered: dict[str, Operation[Any, Any]] = {}
NAMED = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


class Operation(Generic[P, R]):
    """A function of JSON arguments, made of steps, which can be gone on with where it was broken off.

    Called in a view, function or consumer in mode "lease" that names it. Called again after a crash, it runs
    from its first line; each step that is done gives back its result without being run.
    """

    def __init__(
        self, function: Callable[P, R], name: str | None, steps: Sequence[Step[..., Any]], version: int
    ) -> None:
        refuse_generators(function, "@operation")
        refuse_coroutines(function, "@operation")
        self.signature = inspect.signature(function)
        if any(parameter.kind not in NAMED for parameter in self.signature.parameters.values()):
            raise TypeError(f"{function.__qualname__}() must take its arguments by name, each its own.")
        if not steps or any(not isinstance(step, Step) for step in steps):
            raise TypeError(
                f"steps are the functions that @database_step or @outside_call made, not {steps!r}."
            )
        if len({step.name for step in steps}) < len(steps):
            raise TypeError(f"Two steps of {function.__qualname__}() have the same name.")
        update_wrapper(self, function)
        self.function = function
        self.name = name or f"{function.__module__}.{function.__qualname__}"
        if len(self.name) > MAX_NAME:
            raise TypeError(f"The name {self.name!r} is longer than {MAX_NAME} characters.")
        self.steps = {step.name: step for step in steps}
        facts = [fact for step in steps for fact in step.facts]
        self.digest = digest(b"idem-steps", (str(version), *facts))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        run = innermost("run")
        if run is None or run.operation is not self:
            raise RuntimeError(
                f"{self.name} has nowhere to note its steps: call it where mode is 'lease' and steps is this "
                "operation (idempotency_steps of a view)."
            )
        result: R = self.resumed(run, bound.arguments)
        return result

    def resumed(self, run: Any, arguments: dict[str, Any]) -> R:
        """From its first line, whatever of it is done."""
        run.begin(arguments)
        return cast(Callable[..., R], self.function)(**arguments)

    def may_ask(self, run: OperationRun) -> bool:
        """Whether the other side can be asked what became of the call that the run broke off in."""
        entries = loaded(run.journal)
        step = self.steps.get(entries[-1].step) if entries and entries[-1].state == BEGUN else None
        return isinstance(step, OutsideCall) and step.reconcile is not None


@overload
def operation(function: Callable[P, R], /) -> Operation[P, R]: ...
@overload
def operation(
    name: str | None = None, /, *, steps: Sequence[Step[..., Any]], version: int = ...
) -> Callable[[Callable[P, R]], Operation[P, R]]: ...
def operation(name: Any = None, /, *, steps: Sequence[Step[..., Any]] = (), version: int = 1) -> Any:
    """``@operation("shop.pay", steps=[reserve, charge, mark_paid])`` on a function that calls these steps.

    Its arguments and result are JSON. ``name`` is stored with every run and must stay the same; by default
    it is module and function. ``steps``: all that it may call. A run is gone on with only by the same steps,
    of the same kinds, in the same order here; raise ``version`` where what they do has changed so that
    what the old ones have begun must not be ended by the new ones.

    The function must call the same steps with the same arguments when it is run again: what changes (the
    time, a random number, what the database says now) belongs into a step, whose result is kept.
    """
    if callable(name):
        raise TypeError("Say which steps there are: @operation(steps=[…]).")

    def decorator(function: Callable[..., Any]) -> Operation[Any, Any]:
        made = Operation(function, name, steps, version)
        known = _registered.setdefault(made.name, made)
        if place(known.function) != place(function):
            raise TypeError(f"There are two operations {made.name!r}: {known.function!r} and {function!r}.")
        _registered[made.name] = made
        return made

    return decorator


def place(function: Callable[..., Any]) -> tuple[str, str]:
    """The same when its module is loaded again."""
    return function.__module__, function.__qualname__


def registered(name: str) -> Operation[Any, Any] | None:
    return _registered.get(name)
