"""Celery tasks whose messages come twice, and whose effects do not.

A message stays the broker's until what it did is committed, or until the message that takes its place is with
the broker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from django.core.exceptions import ImproperlyConfigured

from idempotency.callables import refuse_coroutines
from idempotency.consumers.consumer import (
    BusinessId,
    Consumer,
    DeliveryKind,
    idempotent_consumer,
    registered,
)

try:
    from celery import shared_task

    from idempotency.consumers.celery_messages import TaskMessage, send_again
except ImportError as error:
    raise ImproperlyConfigured(
        "Tasks need Celery: pip install 'django-idempotency-guard[celery]'."
    ) from error

__all__ = ["IdempotentTask", "idempotent_task", "send_again"]
P = ParamSpec("P")
R = TypeVar("R", covariant=True)
SAFE = {
    "acks_late": True,
    "reject_on_worker_lost": True,
    # Rejected, a message that is given up goes to its queue's dead letter exchange, if there is one; one
    # whose time limit has killed its process goes back into the queue.
    "acks_on_failure_or_timeout": False,
    "acks_on_failure": False,
    "acks_on_timeout": False,
    # What was published by it could be lost on the way.
    "retry_on_worker_lost": False,
    # The database counts; a message that waits for another is not a failure.
    "max_retries": None,
    # Whatever fails is tried again, but for what was given up.
    "autoretry_for": (),
}
AUTORETRY = ("dont_autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max", "retry_jitter")


class IdempotentTask(Protocol[P, R]):
    """A Celery task, as far as its arguments are known."""

    name: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any: ...
    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any: ...
    # Partial, in a chain.
    def s(self, *args: Any, **kwargs: Any) -> Any: ...
    def si(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...
    def signature(self, args: Any = None, *more: Any, **options: Any) -> Any: ...


@overload
def idempotent_task(
    name: str, *, bind: Literal[True], key: str | Callable[..., BusinessId], **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], IdempotentTask[P, R]]: ...
@overload
def idempotent_task(
    name: str,
    *,
    key: str | Callable[..., BusinessId],
    delivery: DeliveryKind,
    reconcile: Callable[..., bool | None] | None = ...,
    not_done: type[Exception] | tuple[type[Exception], ...] = ...,
    lease: timedelta | None = ...,
    retention: timedelta | None = ...,
    using: str | Callable[..., str] | None = ...,
    keep_result: bool = ...,
    max_attempts: int = ...,
    app: Any = ...,
    bind: Literal[False] = ...,
    **task_options: Any,
) -> Callable[[Callable[P, R]], IdempotentTask[P, R]]: ...
def idempotent_task(
    name: str,
    *,
    key: str | Callable[..., BusinessId],
    keep_result: bool = True,
    max_attempts: int = 10,
    app: Any = None,
    bind: bool = False,
    **options: Any,
) -> Any:
    """Make a Celery task out of a function, whose effect happens as often as ``delivery`` says: see
    ``@idempotent_consumer``, which has the other options.

    ``name``: the task's, and what its messages are known under. ``key``: the argument that is the business
    id, or a function of the arguments that returns it; never the task's id, since a caller that sends again
    gets another one. Where there is no business id, the caller makes one, stores it with what it is about
    before it sends, and passes it as an argument. ``app``: the task is that app's, and shared without.
    ``bind``: the function is given the task first; ``key``, ``using`` and ``reconcile`` are not.
    ``task_options``: Celery's, but for those that would undo the promise.

    What fails is tried again, after 1 to 300 seconds; ``max_attempts`` are counted in the database, those
    too that took their process with them. After that, or where another attempt is not allowed, the task's
    state is FAILURE, with the function's exception or GivenUp, and a FailedMessage has the reason and the
    arguments, for ``send_again()``. A duplicate returns what the first returned, which must be JSON; without
    ``keep_result``, None.

    A direct call, and an eager task, go through the consumer too, and raise what it raises.
    """
    if fault := options_fault(options, max_attempts):
        raise TypeError(f"@idempotent_task: {fault}")
    consumer_options = {each: options.pop(each) for each in CONSUMER_OPTIONS if each in options}
    make_task = app.task if app is not None else shared_task

    def decorator(function: Callable[..., Any]) -> Any:
        refuse_coroutines(function, "@idempotent_task")
        plain = without_task(function, lambda: task) if bind else function
        idempotent_consumer(name, key=key, keep_result=keep_result, **consumer_options)(plain)
        consumer = registered(name)
        assert consumer
        run = runner(function, consumer, max_attempts)
        task = make_task(name=name, bind=True, **{**options, **SAFE})(run)
        return task

    return decorator


CONSUMER_OPTIONS = ("delivery", "reconcile", "not_done", "lease", "retention", "using")


def without_task(function: Callable[..., Any], task: Callable[[], Any]) -> Callable[..., Any]:
    """A bound function as its callers see it."""

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return function(task(), *args, **kwargs)

    signature = inspect.signature(function)
    plain.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]
    return plain


def runner(function: Callable[..., Any], consumer: Consumer, max_attempts: int) -> Callable[..., Any]:
    """What Celery runs, with the function's name and arguments."""

    @wraps(function)
    def run(task: Any, /, *args: Any, **kwargs: Any) -> Any:
        request = task.request
        if request.called_directly or request.is_eager:
            # Nobody brings it again.
            return consumer.call(*args, **kwargs)
        return TaskMessage(task, consumer, args, kwargs, max_attempts).settle()

    first = inspect.Parameter("task", inspect.Parameter.POSITIONAL_ONLY)
    taken = consumer.signature
    while first.name in taken.parameters:
        first = first.replace(name=f"{first.name}_")
    run.__signature__ = taken.replace(parameters=[first, *taken.parameters.values()])  # type: ignore[attr-defined]
    return run


def options_fault(options: dict[str, Any], max_attempts: object) -> str | None:
    """What is wrong with these options, and what to do."""
    if "delivery" not in options:
        return "delivery is missing: say how often the effect is to happen."
    if not isinstance(max_attempts, int) or isinstance(max_attempts, bool) or max_attempts < 1:
        return f"max_attempts is {max_attempts!r}: give a number of at least 1."
    for option in AUTORETRY + tuple(SAFE):
        if option in options and (option in AUTORETRY or options[option] != SAFE[option]):
            return (
                f"{option}={options[option]!r} would undo the promise: leave it out. What fails, or is "
                "killed, is tried again, max_attempts times in all."
            )
    return None
