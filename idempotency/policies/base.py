from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from idempotency.exceptions import IdempotencyError
from idempotency.keys import ANONYMOUS, Scope
from idempotency.models import IdempotencyRecord
from idempotency.problems import ProblemResponse, problem_response
from idempotency.responses import is_storable_status
from idempotency.shards.routing import database_for

if TYPE_CHECKING:
    from idempotency.records import RecordGuard
    from idempotency.tokens import TokenGuard

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class IdempotencyPolicy:
    """What every mechanism asks of a view. An attribute left at None takes the setting of the same name."""

    #: Guarded methods. GET, HEAD, OPTIONS and TRACE never are.
    idempotency_methods: ClassVar[Collection[str]] = ("POST", "PATCH")
    #: Let callers without a principal share one scope, in which the key or token is a bearer secret.
    idempotency_allow_anonymous: ClassVar[bool] = False

    #: Keep the response's body. When False, a replay has status and headers only.
    idempotency_store_body: ClassVar[bool] = True

    def get_idempotency_scope(self, request: Any) -> Scope | None:
        """Whose key or token it is: by default the user's.

        Return a model instance, a ``(kind, identifier)`` pair or a text (tenant, API key, session);
        None for nobody, which is refused unless the view allows anonymous callers.
        """
        return user_of(request)

    def get_idempotency_using(self, request: Any) -> str:
        """Alias of the database in which the guard and the business rows commit together: on shards, where
        the shard key is. A project with a routing of its own plugs it in here."""
        return database_for(IdempotencyRecord, self.get_idempotency_shard_key(request))

    def get_idempotency_shard_key(self, request: Any) -> Scope:
        """By what the operation's shard is found (IDEMPOTENCY_SHARDS): by default whose key it is. Return the
        tenant or the order that the business rows are spread by, from the request."""
        scope = self.get_idempotency_scope(request)
        return ANONYMOUS if scope is None else scope

    def should_store_idempotency_response(self, request: Any, response: HttpResponseBase) -> bool:
        """Whether the response is the operation's outcome. When not, the operation has failed: its
        writes are rolled back where the guard holds their transaction, and its key is free again. By
        default 2xx, 3xx and 4xx but 401, 403, 408, 425 and 429, and what another mechanism refused."""
        return is_storable_status(response.status_code) and not isinstance(response, ProblemResponse)

    def get_idempotency_refusal(self, request: Any, error: IdempotencyError) -> HttpResponse:
        """What a refused caller is answered: by default the problem document (RFC 9457). Return a page
        or a redirect where people and no programs call; ``error.code`` says what it was."""
        return problem_response(error)

    def check_idempotent_replay(self, request: Any, record: IdempotencyRecord) -> None:
        """Raise (PermissionDenied, Http404) when the caller may no longer see the response."""

    def is_guarded(self, request: Any) -> bool:
        return request.method in self.idempotency_methods and request.method not in SAFE_METHODS

    def idempotency_guard(self, request: Any) -> RecordGuard | None:
        """The record's guard for this request; None when it needs no key and brought none."""
        return None

    def idempotency_token_guard(self, request: Any, record: RecordGuard | None) -> TokenGuard | None:
        """The token's guard, entered within the record's where there is one; None when it needs none."""
        return None


def user_of(request: Any) -> tuple[str, str] | None:
    """Kind and identifier of the user who makes the request; None for nobody."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or user.pk is None:
        return None
    # request.user is a SimpleLazyObject outside of DRF, whose own type says nothing.
    meta = getattr(user, "_meta", None)
    if meta is None:
        return (user.__class__.__qualname__, str(user.pk))
    # A proxy model's user is the same user.
    return (meta.concrete_model._meta.label_lower, str(user.pk))


def header_value(request: Any, name: str) -> str | None:
    value: str | None = request.META.get("HTTP_" + name.upper().replace("-", "_"))
    return value
