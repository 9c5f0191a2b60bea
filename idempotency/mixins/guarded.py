from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.db.models import Model
from django.http import Http404
from django.http.response import HttpResponseBase
from django.views import View
from rest_framework.generics import GenericAPIView
from rest_framework.views import APIView

from idempotency.database import is_conflict
from idempotency.exceptions import NotApplied, TransitionRejected
from idempotency.http import Answer, Replay, respond_once
from idempotency.mixins.transitions import refusal_response, require_first
from idempotency.models import IdempotencyRecord
from idempotency.policies import IdempotencyPolicy, KeyPolicy, TokenPolicy
from idempotency.responses import render

if TYPE_CHECKING:
    Base = APIView
else:
    Base = object

Handler = Callable[..., HttpResponseBase]


class GuardedViewMixin(IdempotencyPolicy, Base):
    """What the mixins share. However many of them a view has, its handler is guarded once.

    Authentication, permissions and throttles come before the guards, for a replay too. Handler,
    exception handler and rendering run inside them.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__
        if APIView not in bases:
            if View in bases:
                raise TypeError(
                    f"{cls.__qualname__} is no view of REST framework, so this mixin would not guard it: use "
                    "@method_decorator(idempotent_view, name='dispatch'), or require_idempotency_token(…)."
                )
            return
        for mixin in (IdempotencyKeyMixin, IdempotencyTokenMixin):
            require_first(cls, mixin)

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        # DRF looks the handler up right after this. Overriding dispatch() instead would either lose
        # the dispatch() of other bases, or leave exceptions to be handled outside the transaction.
        name = request.method.lower()
        handler = getattr(self, name, None)
        if handler is not None and name in self.http_method_names and self.is_guarded(request):
            setattr(self, name, partial(run_once, self, self, handler))

    def handle_exception(self, error: Exception) -> Any:
        """A status that may not change so is the view's own answer, and no defect."""
        if isinstance(error, TransitionRejected):
            return refusal_response(error)
        return super().handle_exception(error)


class IdempotencyKeyMixin(KeyPolicy, GuardedViewMixin):
    """``class OrderViewSet(IdempotencyKeyMixin, ModelViewSet)``: a POST or PATCH brings an
    ``Idempotency-Key``, and all requests with the same key together happen once.

    Handler, exception handler and rendering are one transaction with the record. What the handler does
    outside the records' database is not undone and not guarded.
    """

    def check_idempotent_replay(self, request: Any, record: IdempotencyRecord) -> None:
        """Object permissions, which run in get_object() and so not before the guard."""
        check_object(self, request)


class IdempotencyTokenMixin(TokenPolicy, GuardedViewMixin):
    """``class PaymentViewSet(IdempotencyTokenMixin, ModelViewSet)``: a POST or PATCH brings an
    ``Idempotency-Token`` that was issued to its caller, and runs at most once with it.

    Beside IdempotencyKeyMixin, in either order, the record answers retries, and the token is asked for
    only by what would run.
    """


def run_once(
    view: Any, policy: IdempotencyPolicy, handler: Handler, request: Any, *args: Any, **kwargs: Any
) -> HttpResponseBase:
    """Run a DRF handler with everything that DRF does to its answer, inside the guard."""

    def run() -> Answer:
        returned = True
        try:
            response = handler(request, *args, **kwargs)
        except Exception as error:
            if is_conflict(error):
                raise
            # That an event was parked is an answer, and what keeps it is among the writes.
            returned = isinstance(error, NotApplied)
            response = handle_exception(view, error)
        response = view.finalize_response(request, response, *args, **kwargs)
        render(response)
        # dispatch() would do both a second time, and take a commit hook's error for the handler's.
        view.finalize_response = as_it_is
        view.handle_exception = reraise
        return response, returned

    response = respond_once(policy, request, run)
    if isinstance(response, Replay):
        view.finalize_response = as_it_is
    return response


def handle_exception(view: Any, error: Exception) -> HttpResponseBase:
    try:
        response: HttpResponseBase = view.handle_exception(error)
    except Exception:
        # It goes on to dispatch(), which must not have it handled (and reported) once more.
        view.handle_exception = reraise
        raise
    return response


def as_it_is(request: Any, response: HttpResponseBase, *args: Any, **kwargs: Any) -> HttpResponseBase:
    return response


def reraise(error: Exception) -> HttpResponseBase:
    raise error


def check_object(view: Any, request: Any) -> None:
    """Raise what get_object() raises when the caller may not see the route's object (any more)."""
    if not isinstance(view, GenericAPIView) or not has_queryset(view):
        return
    lookup = view.lookup_url_kwarg or view.lookup_field
    if lookup not in view.kwargs:
        return
    model = view.get_queryset().model
    try:
        # The handler's transaction is there for select_for_update() in get_queryset() too.
        with transaction.atomic(using=router.db_for_write(model)):
            view.get_object()
    except Http404:
        # Hidden from this caller, or deleted meanwhile (perhaps by this very operation)? Only what
        # still exists can have been taken from the caller.
        if exists(model, **{view.lookup_field: view.kwargs[lookup]}):
            raise


def exists(model: type[Model], **where: Any) -> bool:
    with suppress(TypeError, ValueError, OverflowError, ValidationError):  # no such key can exist
        return model._base_manager.filter(**where).exists()
    return False


def has_queryset(view: Any) -> bool:
    return view.queryset is not None or type(view).get_queryset is not GenericAPIView.get_queryset
