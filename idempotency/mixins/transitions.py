from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ObjectDoesNotExist
from django.http import Http404
from django.http.response import HttpResponseBase
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView, set_rollback

from idempotency import conf
from idempotency.exceptions import IdempotencyError, InvalidSequence, NotApplied, UnknownStatus
from idempotency.keys import MAX_KEY_LENGTH, Scope, key_digest, named, parse_key
from idempotency.policies.base import header_value
from idempotency.problems import problem_response
from idempotency.status import Outcome, StatusMixin

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

    def get_transition_event_id(self, request: Any) -> Any:
        """The sender's id of the event, the same in every copy: by default the ``Idempotency-Key``, which
        is its caller's own. None: only the status tells duplicates."""
        header = header_value(request, conf.header())
        if header is None:
            return None
        event_id = f"{named(self.get_transition_by(request))} {parse_key(header)}".strip()
        return event_id if len(event_id) <= MAX_KEY_LENGTH else key_digest(event_id).hex()

    def get_transition_sequence(self, request: Any) -> int | None:
        """The event's number, for models that order by it."""
        return None

    def get_transition_by(self, request: Any) -> Scope | None:
        """Who changes the status, for the log: by default the user."""
        user = getattr(request, "user", None)
        return user if user is not None and user.is_authenticated and user.pk is not None else None

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
        event_id = self.get_transition_event_id(self.request)
        try:
            outcome = instance.transition_to(
                to,
                event_id=event_id,
                sequence=self.get_transition_sequence(self.request),
                by=self.get_transition_by(self.request),
            )
        except UnknownStatus as error:
            raise ValidationError({"status": [str(error)]}) from error
        except InvalidSequence as error:
            raise ValidationError({"sequence": [str(error)]}) from error
        except ObjectDoesNotExist as error:
            raise Http404(str(error)) from error
        was_done = outcome in (Outcome.APPLIED, Outcome.DUPLICATE)
        return self._answer(instance, outcome, instance.logged_transition(event_id if was_done else None))

    def receive(
        self, model: type[StatusMixin], value: Any, to: Any, *, defaults: Mapping[str, Any] | None = None
    ) -> HttpResponseBase:
        """The same for the object that an event names by ``model.status_lookup``; 404 where there is none.
        With ``defaults`` one is inserted first; see StatusMixin.for_event()."""
        try:
            instance = model.for_event(value, defaults=defaults)
        except (ObjectDoesNotExist, TypeError, ValueError) as error:
            raise Http404(str(error)) from error
        return self.transition(instance, to)

    def _answer(
        self, instance: StatusMixin, outcome: Outcome, entry: StatusTransition | None
    ) -> HttpResponseBase:
        response = self.get_transition_response(instance, outcome, entry)
        if outcome is Outcome.DUPLICATE:
            response.headers["Idempotency-Replayed"] = "true"
        return response

    def handle_exception(self, error: Exception) -> Any:
        if isinstance(error, NotApplied):
            entry = error.entry or error.instance.logged_transition()
            return self._answer(error.instance, error.outcome, entry)
        if isinstance(error, IdempotencyError):
            return refusal_response(error)
        return super().handle_exception(error)


def refusal_response(error: IdempotencyError) -> HttpResponseBase:
    """The problem document, with the rule for every exception that becomes a response."""
    set_rollback()
    return problem_response(error)
