"""The guarded views of the project, found by walking its URLconf."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Model
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.decorators import api_view
from rest_framework.throttling import ScopedRateThrottle, SimpleRateThrottle
from rest_framework.views import APIView

from idempotency.mixins import GuardedViewMixin
from idempotency.models import IdempotencyRecord
from idempotency.policies import IdempotencyPolicy, KeyPolicy, TokenPolicy
from idempotency.shards.routing import all_databases

FRAMEWORKS = {"django", "rest_framework", "idempotency", "builtins"}


@dataclass(frozen=True)
class GuardedView:
    """A view as the URLconf names it, and where its policy and its code are."""

    callback: Callable[..., Any]
    policy: type[IdempotencyPolicy]
    view_class: type | None

    def __str__(self) -> str:
        functions = api_view_functions(self.view_class)
        named = next(functions, None) or self.view_class or inspect.unwrap(self.callback)
        return f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"

    @property
    def identity(self) -> tuple[object, ...]:
        """The same for a viewset's list and detail routes."""
        own = {key: value for key, value in self.initkwargs.items() if key.startswith("idempotency_")}
        return (self.policy, self.view_class or self.callback, repr(own))

    @property
    def initkwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = getattr(self.callback, "initkwargs", {})
        return kwargs or getattr(self.callback, "view_initkwargs", {})

    @property
    def has_key(self) -> bool:
        return issubclass(self.policy, KeyPolicy)

    @property
    def has_token(self) -> bool:
        return issubclass(self.policy, TokenPolicy)

    def option(self, name: str) -> Any:
        return self.initkwargs.get(name, getattr(self.policy, name))

    def overrides(self, hook: str) -> bool:
        """Whether a hook of every policy is the project's own here."""
        return getattr(self.policy, hook) is not getattr(IdempotencyPolicy, hook)

    @property
    def using(self) -> str | None:
        """The records' alias; None where only the view's own hook knows it, or the shard key."""
        if self.overrides("get_idempotency_using") or len(aliases := record_aliases()) > 1:
            return None
        return aliases[0]

    @property
    def model(self) -> type[Model] | None:
        queryset = getattr(self.view_class, "queryset", None)
        serializer = getattr(self.view_class, "serializer_class", None)
        meta = getattr(serializer, "Meta", None)
        model: type[Model] | None = getattr(queryset, "model", None) or getattr(meta, "model", None)
        return model

    @property
    def non_atomic_requests(self) -> Collection[str]:
        return getattr(self.callback, "_non_atomic_requests", ())

    @property
    def is_reachable(self) -> bool:
        """Whether the route has a method that is guarded."""
        guarded = self.option("idempotency_methods")
        if self.view_class is None or not isinstance(guarded, Collection) or isinstance(guarded, str):
            return True
        names: Collection[str] = getattr(self.view_class, "http_method_names", ())
        offered = getattr(self.callback, "actions", None) or [
            name for name in names if hasattr(self.view_class, name)
        ]
        return not {str(name).lower() for name in guarded}.isdisjoint(offered)

    @property
    def is_throttled(self) -> bool:
        """Also when nothing is known about it: what is no DRF view, or chooses its throttles itself."""
        return is_throttled(self.view_class, self.initkwargs)

    @property
    def code(self) -> Iterator[Any]:
        """Classes and functions of the project's own that the view consists of."""
        parts: list[Any] = [inspect.unwrap(self.callback)]
        if self.view_class:
            parts = [*self.view_class.__mro__, *map(inspect.unwrap, api_view_functions(self.view_class))]
        for part in parts:
            if str(part.__module__).partition(".")[0] not in FRAMEWORKS:
                yield part


def record_aliases() -> tuple[str, ...]:
    return all_databases(IdempotencyRecord)


def guarded_views() -> list[GuardedView]:
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    found: dict[tuple[object, ...], GuardedView] = {}
    for callback in callbacks(get_resolver()):
        view = guarded_view(callback)
        if view and view.is_reachable:
            found.setdefault(view.identity, view)
    return list(found.values())


def callbacks(resolver: URLResolver) -> Iterator[Callable[..., Any]]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from callbacks(pattern)
        elif isinstance(pattern, URLPattern):
            yield pattern.callback


def guarded_view(callback: Callable[..., Any]) -> GuardedView | None:
    view_class = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
    if not isinstance(view_class, type):
        view_class = None
    elif issubclass(view_class, GuardedViewMixin):
        return GuardedView(callback, view_class, view_class)
    for part in (callback, *handlers(view_class), *api_view_functions(view_class)):
        policy = getattr(part, "idempotency_policy", None)
        if isinstance(policy, IdempotencyPolicy):
            return GuardedView(callback, type(policy), view_class)
    return None


def handlers(view_class: type | None) -> Iterator[Any]:
    for name in getattr(view_class, "http_method_names", ()):
        if hasattr(view_class, name):
            yield getattr(view_class, name)


def api_view_functions(view_class: type | None) -> Iterator[Any]:
    """What @api_view made the class of; only the closures of its handlers know."""
    for handler in handlers(view_class):
        if getattr(handler, "__module__", None) == api_view.__module__:
            yield from (cell.cell_contents for cell in handler.__closure__ or ())


def is_throttled(view: type | None, initkwargs: dict[str, Any]) -> bool:
    if view is None or not issubclass(view, APIView) or view.get_throttles is not APIView.get_throttles:
        return True
    classes = initkwargs.get("throttle_classes", view.throttle_classes)
    return any(limits(throttle, view) for throttle in classes)


def limits(throttle: Any, view_class: Any) -> bool:
    """Whether the throttle has a rate; REST framework lets one without pass everything."""
    if not issubclass(throttle, SimpleRateThrottle):
        return True
    scoped = issubclass(throttle, ScopedRateThrottle)
    scope = getattr(view_class if scoped else throttle, "throttle_scope" if scoped else "scope", None)
    return bool(getattr(throttle, "rate", None) or throttle.THROTTLE_RATES.get(scope))
