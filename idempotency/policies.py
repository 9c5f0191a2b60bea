"""What a view says about its own idempotency: attributes for the usual, hooks for the rest."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import Model
from django.http.response import HttpResponseBase

from idempotency import conf
from idempotency.exceptions import MissingKey, MissingPrincipal
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ANONYMOUS, ScopedKey, parse_key, valid_key
from idempotency.models import IdempotencyRecord
from idempotency.payloads import request_material
from idempotency.records import RecordGuard
from idempotency.responses import is_storable_status

Scope = str | tuple[str, str] | Model
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class IdempotencyPolicy:
    """Mixed into DRF views by IdempotencyKeyMixin; filled from arguments by @idempotent_view.

    An attribute left at None takes the setting of the same name.
    """

    #: Refuse a request without a key. When False, such a request runs unguarded.
    idempotency_required: ClassVar[bool] = True
    #: Guarded methods. GET, HEAD, OPTIONS and TRACE never are.
    idempotency_methods: ClassVar[Collection[str]] = ("POST", "PATCH")
    #: How long the record is kept (IDEMPOTENCY_RETENTION, 24 hours).
    idempotency_retention: ClassVar[timedelta | None] = None
    #: "atomic": claim, writes and response commit together.
    idempotency_mode: ClassVar[str] = "atomic"
    #: How long a duplicate waits for the first one's answer, 10 seconds at most (IDEMPOTENCY_WAIT, 0).
    idempotency_wait: ClassVar[timedelta | None] = None
    #: A stable name for the operation. By default method and route.
    idempotency_operation: ClassVar[str | None] = None
    #: Let callers without a principal share one scope, in which the key is a bearer secret.
    idempotency_allow_anonymous: ClassVar[bool] = False
    #: Keep the response's body. When False, a replay has status and headers only.
    idempotency_store_body: ClassVar[bool] = True

    def get_idempotency_key(self, request: Any) -> str | None:
        """The operation's key: by default the header's. None: there is none.

        Override it to take the business id from the payload, or a webhook's event id.
        """
        header = request.META.get("HTTP_" + conf.header().upper().replace("-", "_"))
        return None if header is None else parse_key(header)

    def get_idempotency_scope(self, request: Any) -> Scope | None:
        """Whose key it is: by default the user's.

        Return a model instance, a ``(kind, identifier)`` pair or a text (tenant, API key, session);
        None for nobody, which is refused unless the view allows anonymous callers.
        """
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated or user.pk is None:
            return None
        # request.user is a SimpleLazyObject outside of DRF, whose own type says nothing.
        meta = getattr(user, "_meta", None)
        if meta is None:
            return (user.__class__.__qualname__, str(user.pk))
        # A proxy model's user is the same user.
        return (meta.concrete_model._meta.label_lower, str(user.pk))

    def get_idempotency_operation(self, request: Any) -> str:
        if self.idempotency_operation is not None:
            return self.idempotency_operation
        match = getattr(request, "resolver_match", None)
        return f"{request.method} {match.route if match else request.path}"

    def get_idempotency_fingerprint(self, request: Any) -> bytes:
        """A digest of what is asked: by default method, path, query, media type and payload."""
        return request_material(request)

    def get_idempotency_using(self, request: Any) -> str:
        """Alias of the database in which record and business rows commit together."""
        return conf.database() or router.db_for_write(IdempotencyRecord)

    def should_store_idempotency_response(self, request: Any, response: HttpResponseBase) -> bool:
        """Whether the response is the operation's outcome. When not, its writes are rolled back
        and the key is free again. By default 2xx, 3xx and 4xx but 401, 403, 408, 425 and 429."""
        return is_storable_status(response.status_code)

    def check_idempotent_replay(self, request: Any, record: IdempotencyRecord) -> None:
        """Raise (PermissionDenied, Http404) when the caller may no longer see the response."""

    def is_guarded(self, request: Any) -> bool:
        return request.method in self.idempotency_methods and request.method not in SAFE_METHODS

    def idempotency_guard(self, request: Any) -> RecordGuard | None:
        """The guard for this request; None when it needs no key and brought none."""
        if self.idempotency_mode != "atomic":
            raise ImproperlyConfigured(f"Unknown idempotency_mode {self.idempotency_mode!r}: use 'atomic'.")
        key = self.get_idempotency_key(request)
        if key is None:
            if self.idempotency_required:
                raise MissingKey
            return None
        principal = self._principal(request)
        return RecordGuard(
            ScopedKey(principal, self.get_idempotency_operation(request), valid_key(key)),
            Fingerprint(self.get_idempotency_fingerprint(request)),
            using=self.get_idempotency_using(request),
            retention=self.idempotency_retention,
            wait=conf.wait() if self.idempotency_wait is None else self.idempotency_wait,
        )

    def _principal(self, request: Any) -> tuple[str, str]:
        scope = self.get_idempotency_scope(request)
        if scope is not None:
            return principal_of(scope)
        if self.idempotency_allow_anonymous:
            return ANONYMOUS
        raise MissingPrincipal


def principal_of(scope: Scope) -> tuple[str, str]:
    """Kind and identifier. Raises MissingPrincipal where there is none to tell callers apart by."""
    if isinstance(scope, Model):
        kind, identifier = scope._meta.concrete_model._meta.label_lower, scope.pk  # type: ignore[union-attr]
    elif isinstance(scope, str):
        kind, identifier = "scope", scope
    else:
        kind, identifier = scope
    if identifier is None:
        raise MissingPrincipal
    return (str(kind), str(identifier))
