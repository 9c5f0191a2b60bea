from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from idempotency.exceptions import IdempotencyError
from idempotency.http import Answer, respond_once, respond_once_async
from idempotency.models import IdempotencyRecord
from idempotency.modes import Mode
from idempotency.policies import IdempotencyPolicy, KeyPolicy, Scope, TokenPolicy
from idempotency.responses import render
from idempotency.steps import Operation
from idempotency.tokens import OnFailure

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
    mode: Mode = ...,
    lease: timedelta | None = ...,
    rerun: bool = ...,
    steps: Operation[..., Any] | None = ...,
    get_key: Callable[[Any], str | None] = ...,
    get_scope: Callable[[Any], Scope | None] = ...,
    get_fingerprint: Callable[[Any], bytes] = ...,
    get_using: Callable[[Any], str] = ...,
    get_refusal: Callable[[Any, IdempotencyError], HttpResponse] = ...,
    check_replay: Callable[[Any, IdempotencyRecord], None] = ...,
) -> Callable[[V], V]: ...
def idempotent_view(view: Any = None, /, **options: Any) -> Any:
    """``@idempotent_view`` or ``@idempotent_view(required=False, …)`` on a Django view, sync or async,
    or above or below ``@api_view``. Each option is the view attribute or hook of the same name.

    Put it below decorators that authenticate (``@login_required``): the guard comes after them. What
    the view returns is recorded by the rules for views; an exception rolls back and frees the key.
    """
    if view is None:
        return partial(decorate, options=options, kind=KEY)
    return decorate(view, options=options, kind=KEY)


@overload
def require_idempotency_token(view: V, /) -> V: ...
@overload
def require_idempotency_token(
    *,
    purpose: str = ...,
    on_failure: OnFailure = ...,
    required: bool = ...,
    methods: Collection[str] = ...,
    alias: str = ...,
    allow_anonymous: bool = ...,
    get_token: Callable[[Any], str | None] = ...,
    get_scope: Callable[[Any], Scope | None] = ...,
    get_using: Callable[[Any], str] = ...,
    get_refusal: Callable[[Any, IdempotencyError], HttpResponse] = ...,
) -> Callable[[V], V]: ...
def require_idempotency_token(view: Any = None, /, **options: Any) -> Any:
    """``@require_idempotency_token(purpose="checkout")`` on a Django view, sync or async, or above or
    below ``@api_view``: a POST or PATCH brings a one-time token, in the header or in the hidden field of
    ``{% idempotency_token "checkout" %}``, and runs at most once with it.

    ``get_refusal(request, error)`` returns what a refused caller sees, by default the problem document.
    Put it below decorators that authenticate; directly above or below ``@idempotent_view`` where a view
    has both.
    """
    if view is None:
        return partial(decorate, options=options, kind=TOKEN)
    return decorate(view, options=options, kind=TOKEN)


class Kind(NamedTuple):
    """A decorator: its policy, and the names of its options that are not those of the attributes."""

    name: str
    policy: type[IdempotencyPolicy]
    options: dict[str, str]
    mixin: str


SHARED = {
    "methods": "idempotency_methods",
    "allow_anonymous": "idempotency_allow_anonymous",
    "get_scope": "get_idempotency_scope",
    "get_using": "get_idempotency_using",
    "get_refusal": "get_idempotency_refusal",
}
KEY = Kind(
    "idempotent_view",
    KeyPolicy,
    {
        **SHARED,
        "required": "idempotency_required",
        "retention": "idempotency_retention",
        "wait": "idempotency_wait",
        "mode": "idempotency_mode",
        "lease": "idempotency_lease",
        "rerun": "idempotency_rerun",
        "steps": "idempotency_steps",
        "operation": "idempotency_operation",
        "store_body": "idempotency_store_body",
        "get_key": "get_idempotency_key",
        "get_fingerprint": "get_idempotency_fingerprint",
        "check_replay": "check_idempotent_replay",
    },
    "IdempotencyKeyMixin",
)
TOKEN = Kind(
    "require_idempotency_token",
    TokenPolicy,
    {
        **SHARED,
        "purpose": "idempotency_token_purpose",
        "on_failure": "idempotency_token_on_failure",
        "required": "idempotency_token_required",
        "alias": "idempotency_token_alias",
        "get_token": "get_idempotency_token",
    },
    "IdempotencyTokenMixin",
)


def policy_class(options: dict[str, Any], kind: Kind, *bases: type) -> type:
    """A policy with these options: attributes by their short names, hooks as plain functions."""
    namespace: dict[str, Any] = {}
    for name, value in options.items():
        if name not in kind.options:
            raise TypeError(f"{kind.name}() has no option {name!r}.")
        attribute = kind.options[name]
        namespace[attribute] = value if attribute.startswith("idempotency_") else staticmethod(value)
    return type("IdempotentViewPolicy", bases, namespace)


def decorate(view: Callable[..., Any], options: dict[str, Any], kind: Kind) -> Callable[..., Any]:
    if not callable(view):
        raise TypeError(f"{kind.name}() takes its options by name, not {view!r}.")
    if hasattr(view, "cls"):  # what @api_view and as_view() of DRF return
        return decorate_api_view(view, options, kind)
    bases: tuple[type, ...] = (kind.policy,)
    if inner := getattr(view, "idempotency_policy", None):
        # One guard for both decorators: apart, the outer one would record the inner one's refusals.
        view, bases = undecorated(view, kind), (kind.policy, type(inner))
    policy: IdempotencyPolicy = policy_class(options, kind, *bases)()
    wrapper = async_wrapper(view, policy) if iscoroutinefunction(view) else sync_wrapper(view, policy)
    wrapper.idempotency_policy = policy  # type: ignore[attr-defined]  # for the system checks
    wrapper.idempotency_wrapper = wrapper  # type: ignore[attr-defined]
    return wrapper


def undecorated(view: Any, kind: Kind) -> Callable[..., Any]:
    """The view within the other decorator's wrapper. Whatever wraps that copies its attributes."""
    if view.idempotency_wrapper is not view:
        raise TypeError(f"Put @{kind.name} directly above the other decorator of this package.")
    if isinstance(view.idempotency_policy, kind.policy):
        raise TypeError(f"The view has @{kind.name} twice.")
    return cast(Callable[..., Any], view.__wrapped__)


def decorate_api_view(view: Any, options: dict[str, Any], kind: Kind) -> Callable[..., Any]:
    from idempotency import mixins
    from idempotency.checks.urlconf import api_view_functions

    if hasattr(view, "actions"):
        raise TypeError(f"Mix {kind.mixin} into a viewset instead of decorating its as_view().")
    if issubclass(view.cls, kind.policy):
        raise TypeError(f"The view has @{kind.name} twice.")
    if any(hasattr(function, "idempotency_policy") for function in api_view_functions(view.cls)):
        raise TypeError(f"Put @{kind.name} on the same side of @api_view as the other decorator.")
    # csrf_exempt is DRF's own and one layer; another one would silently be taken off.
    if hasattr(getattr(view, "__wrapped__", None), "__wrapped__"):
        raise TypeError(f"Put @{kind.name} directly above @api_view, and other decorators above it.")
    mixin = policy_class(options, kind, getattr(mixins, kind.mixin))
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
