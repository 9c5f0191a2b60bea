"""What decorators take."""

from __future__ import annotations

import inspect

from asgiref.sync import iscoroutinefunction


def refuse_generators(function: object, what: str) -> None:
    """Their bodies run when they are iterated, which is after the guard was left."""
    lazy = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if lazy or isinstance(function, type) or not callable(function):
        raise TypeError(f"{what} decorates functions and coroutine functions, not {function!r}.")


def refuse_coroutines(function: object, what: str) -> None:
    if iscoroutinefunction(function):
        raise TypeError(
            f"{what} decorates plain functions, not the coroutine function {function!r}: coroutines call "
            "them by sync_to_async()."
        )
