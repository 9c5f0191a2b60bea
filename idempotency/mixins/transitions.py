from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import router
from django.http import Http404
from django.http.response import HttpResponseBase
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView, set_rollback

from idempotency import conf
from idempotency.exceptions import (
    IdempotencyError,
    InvalidSequence,
    MissingPrincipal,
    NotApplied,
    ObjectGone,
    UnknownStatus,
)
from idempotency.keys import ANONYMOUS, Scope, digest, parse_key, principal_of
from idempotency.policies.base import header_value, user_of
from idempotency.problems import problem_response
from idempotency.status import Outcome, StatusMixin
from idempotency.status.decision import change_status
from idempotency.status.events import Event, event_for
from idempotency.status.log import logged
from idempotency.status.row import StatusRow

if TYPE_CHECKING:
    from idempotency.models import StatusTransition

    Base = APIView
else:
    Base = object

STATUS_CODES = {Outcome.APPLIED: 200, Outcome.DUPLICATE: 200, Outcome.STALE: 200, Outcome.PARKED: 202}


class IdempotencyTransitionMixin(Base):
    """Actions that change a status, and webhooks that tell of a change::

        class OrderViewSet(IdempotencyTransitionMixin, ModelViewSet):
            @action(detail=True, methods=["post"])
            def pay(self, request, pk=None):
                return self.transition(self.get_object(), "paid")


        class PaymentEvents(IdempotencyTransitionMixin, APIView):
            def get_transition_event_id(self, request):
                return request.data["event"]

            def post(self, request):
                return self.receive(Order, request.data["order"], "paid")

    A change and its duplicates are answered 200 with the same body, what the log has of the change, and
    duplicates ``Idempotency-Replayed: true``. What is stale is answered 200, and what came too early 202,
    with the latest change that is known. A change that is not allowed is the problem
    ``transition-rejected``, 409. Beside IdempotencyKeyMixin, an answer of your own is stored and replayed.
    """

    #: Let callers without a principal share one scope of keys.
    idempotency_allow_anonymous: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_first(cls, IdempotencyTransitionMixin)

    def get_transition_event_id(self, request: Any) -> Any:
        """The sender's id of the event, the same in every copy: by default a digest of the
        ``Idempotency-Key`` and of whose it is. None: only the status tells duplicates."""
        header = header_value(request, conf.header())
        if header is None:
            return None
        key, by = parse_key(header), self.get_transition_by(request)
        if by is None and not self.idempotency_allow_anonymous:
            raise MissingPrincipal
        return digest(b"idem-event", (*(principal_of(by) if by else ANONYMOUS), key)).hex()

    def get_transition_sequence(self, request: Any) -> int | None:
        """The event's number, for models that order by it."""
        return None

    def get_transition_by(self, request: Any) -> Scope | None:
        """Who changes the status, for the log: by default the user."""
        return user_of(request)

    def get_transition_response(
        self, instance: StatusMixin, outcome: Outcome, entry: StatusTransition | None
    ) -> HttpResponseBase:
        """``entry``: of the change or its duplicate; of the latest change otherwise, or None."""
        known = {"status": instance.current_status, "from": None, "event": None, "at": None}
        if entry:
            known = {
                "status": entry.to_status,
                "from": entry.from_status,
                "event": entry.event_id or None,
                "at": entry.at,
            }
        return Response(known, status=STATUS_CODES[outcome])

    def transition(self, instance: StatusMixin, to: Any) -> HttpResponseBase:
        """Change the object's status for this request, and answer."""
        event = self._event(type(instance), to)
        using = router.db_for_write(type(instance), instance=instance)
        try:
            outcome, entry = change_status(instance, event, using)
        except ObjectGone as error:
            raise Http404(str(error)) from error
        if outcome in (Outcome.APPLIED, Outcome.DUPLICATE):
            entry = entry or logged(StatusRow(instance, using), event)
        return self._answer(instance, outcome, entry)

    def receive(
        self, model: type[StatusMixin], value: Any, to: Any, *, defaults: Mapping[str, Any] | None = None
    ) -> HttpResponseBase:
        """The same for the object that an event names by ``model.status_lookup``; 404 where there is none.
        With ``defaults`` one is inserted first; see StatusMixin.for_event()."""
        # What cannot be done to any object leaves none behind.
        self._event(model, to)
        try:
            instance = model.for_event(value, defaults=defaults)
        except model.DoesNotExist as error:
            raise Http404(str(error)) from error
        return self.transition(instance, to)

    def _event(self, model: type[StatusMixin], to: Any) -> Event:
        event_id, by = self.get_transition_event_id(self.request), self.get_transition_by(self.request)
        try:
            return event_for(model, to, event_id, self.get_transition_sequence(self.request), by)
        except UnknownStatus as error:
            raise ValidationError({"status": [str(error)]}) from error
        except InvalidSequence as error:
            raise ValidationError({"sequence": [str(error)]}) from error

    def _answer(
        self, instance: StatusMixin, outcome: Outcome, entry: StatusTransition | None
    ) -> HttpResponseBase:
        response = self.get_transition_response(instance, outcome, entry or latest(instance))
        if outcome is Outcome.DUPLICATE:
            response.headers["Idempotency-Replayed"] = "true"
        return response

    def handle_exception(self, error: Exception) -> Any:
        if isinstance(error, NotApplied):
            return self._answer(error.instance, error.outcome, error.entry)
        if isinstance(error, IdempotencyError):
            return refusal_response(error)
        return super().handle_exception(error)


def latest(instance: StatusMixin) -> StatusTransition | None:
    """The change that has led to the object's status, if the log has it."""
    entry: StatusTransition | None = instance.status_log().last()
    return entry if entry and entry.to_status == str(instance.current_status) else None


def require_first(cls: type, mixin: type) -> None:
    """Raises TypeError where a view's own methods would come before the mixin's."""
    bases = cls.__mro__
    if mixin in bases and APIView in bases and bases.index(APIView) < bases.index(mixin):
        raise TypeError(f"Put {mixin.__name__} first among the bases of {cls.__qualname__}.")


def refusal_response(error: IdempotencyError) -> HttpResponseBase:
    """The problem document, with the rule for every exception that becomes a response."""
    set_rollback()
    return problem_response(error)
