"""Idempotency for Django views, @api_view functions, and any other function."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http.response import HttpResponseBase

from idempotency.functions import IdempotentFunction
from idempotency.http import Answer, respond_once, respond_once_async
from idempotency.models import IdempotencyRecord
from idempotency.policies import IdempotencyPolicy, Scope
from idempotency.responses import render

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound=Callable[..., Any])


@overload
def idempotent_view(view: V, /) -> V: ...
@overload
def idempotent_view(
    *,
    required: bool = ...,
    methods: Collection[str] = ...,
    retention: timedelta | None = ...,
    wait: timedelta | None = ...,
    operation: str | None = ...,
    allow_anonymous: bool = ...,
    store_body: bool = ...,
    get_key: Callable[[Any], str | None] = ...,
    get_scope: Callable[[Any], Scope | None] = ...,
    get_fingerprint: Callable[[Any], bytes] = ...,
    get_using: Callable[[Any], str] = ...,
    check_replay: Callable[[Any, IdempotencyRecord], None] = ...,
) -> Callable[[V], V]: ...
def idempotent_view(view: Any = None, /, **options: Any) -> Any:
    """``@idempotent_view`` or ``@idempotent_view(required=False, …)`` on a Django view, sync or async,
    or above or below ``@api_view``. Each option is the view attribute or hook of the same name.

    Put it below decorators that authenticate (``@login_required``): the guard comes after them. What
    the view returns is recorded by the rules for views; an exception rolls back and frees the key.
    """
    if view is None:
        return partial(decorate, options=options)
    return decorate(view, options=options)


HOOKS = {
    "get_key": "get_idempotency_key",
    "get_scope": "get_idempotency_scope",
    "get_fingerprint": "get_idempotency_fingerprint",
    "get_using": "get_idempotency_using",
    "check_replay": "check_idempotent_replay",
}


def policy_class(options: dict[str, Any], base: type) -> type:
    """A policy with these options: attributes by their short names, hooks as plain functions."""
    namespace: dict[str, Any] = {}
    for name, value in options.items():
        attribute = HOOKS.get(name, f"idempotency_{name}")
        if not hasattr(IdempotencyPolicy, attribute):
            raise TypeError(f"idempotent_view() has no option {name!r}.")
        namespace[attribute] = staticmethod(value) if name in HOOKS else value
    return type("IdempotentViewPolicy", (base,), namespace)


def decorate(view: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if hasattr(view, "cls"):  # what @api_view and as_view() of DRF return
        return decorate_api_view(view, options)
    policy: IdempotencyPolicy = policy_class(options, IdempotencyPolicy)()
    wrapper = async_wrapper(view, policy) if iscoroutinefunction(view) else sync_wrapper(view, policy)
    wrapper.idempotency_policy = policy  # type: ignore[attr-defined]  # for the system checks
    return wrapper


def decorate_api_view(view: Any, options: dict[str, Any]) -> Callable[..., Any]:
    from idempotency.mixins import IdempotencyKeyMixin

    if hasattr(view, "actions"):
        raise TypeError("Mix IdempotencyKeyMixin into a viewset instead of decorating its as_view().")
    # csrf_exempt is DRF's own and one layer; another one would silently be taken off.
    if hasattr(getattr(view, "__wrapped__", None), "__wrapped__"):
        raise TypeError("Put @idempotent_view directly above @api_view, and other decorators above it.")
    mixin = policy_class(options, IdempotencyKeyMixin)
    guarded = type(view.cls.__name__, (mixin, view.cls), {"__doc__": view.cls.__doc__})
    guarded.__module__ = view.cls.__module__
    decorated: Callable[..., Any] = guarded.as_view(**view.initkwargs)  # type: ignore[attr-defined]
    decorated.__dict__.update({**view.__dict__, **decorated.__dict__})  # non_atomic_requests and the like
    return decorated


def sync_wrapper(view: Callable[..., Any], policy: IdempotencyPolicy) -> Callable[..., Any]:
    @wraps(view)
    def wrapper(request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not policy.is_guarded(request):
            return cast(HttpResponseBase, view(request, *args, **kwargs))
        if hasattr(request, "parser_context"):  # below @api_view: a DRF view runs around it
            from idempotency.mixins import run_once

            return run_once(request.parser_context["view"], policy, view, request, *args, **kwargs)

        def run() -> Answer:
            response = view(request, *args, **kwargs)
            render(response)
            return response, True

        return respond_once(policy, request, run)

    return wrapper


def async_wrapper(view: Callable[..., Any], policy: IdempotencyPolicy) -> Callable[..., Any]:
    @wraps(view)
    async def wrapper(request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not policy.is_guarded(request):
            return cast(HttpResponseBase, await view(request, *args, **kwargs))

        async def run() -> Answer:
            response = await view(request, *args, **kwargs)
            await sync_to_async(render)(response)
            return response, True

        return await respond_once_async(policy, request, run)

    return wrapper


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
