from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from idempotency import conf
from idempotency.exceptions import MissingKey, MissingPrincipal
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ANONYMOUS, ScopedKey, parse_key, principal_of, valid_key
from idempotency.modes import Mode, record_guard
from idempotency.payloads import request_material
from idempotency.policies.base import IdempotencyPolicy, header_value
from idempotency.records import RecordGuard
from idempotency.steps import Operation


class KeyPolicy(IdempotencyPolicy):
    """A request brings a key. Mixed into DRF views by IdempotencyKeyMixin; filled from arguments by
    @idempotent_view."""

    #: Refuse a request without a key. When False, such a request runs unguarded.
    idempotency_required: ClassVar[bool] = True
    #: How long the record is kept (IDEMPOTENCY_RETENTION, 24 hours).
    idempotency_retention: ClassVar[timedelta | None] = None
    #: "atomic": claim, writes and response commit together. "lease", for work that calls outside: the claim
    #: commits first, and is one's own for a time.
    idempotency_mode: ClassVar[Mode] = "atomic"
    #: For how long, in mode "lease"; renewed while the view is at work (IDEMPOTENCY_LEASE, 30 seconds).
    idempotency_lease: ClassVar[timedelta | None] = None
    #: In mode "lease", whether the view may be run again when it ended without an answer. If not, the
    #: operation's outcome is unknown then.
    idempotency_rerun: ClassVar[bool] = False
    #: In mode "lease", the operation (idempotency.steps) that the view calls: who retries goes on with it.
    idempotency_steps: ClassVar[Operation[..., Any] | None] = None
    #: How long a duplicate waits for the first one's answer, 10 seconds at most (IDEMPOTENCY_WAIT, 0).
    idempotency_wait: ClassVar[timedelta | None] = None
    #: A stable name for the operation. By default method and route.
    idempotency_operation: ClassVar[str | None] = None

    def get_idempotency_key(self, request: Any) -> str | None:
        """The operation's key: by default the header's. None: there is none.

        Override it to take the business id from the payload, or a webhook's event id.
        """
        header = header_value(request, conf.header())
        return None if header is None else parse_key(header)

    def get_idempotency_operation(self, request: Any) -> str:
        if self.idempotency_operation is not None:
            return self.idempotency_operation
        match = getattr(request, "resolver_match", None)
        return f"{request.method} {match.route if match else request.path}"

    def get_idempotency_fingerprint(self, request: Any) -> bytes:
        """A digest of what is asked: by default method, path, query, media type and payload."""
        return request_material(request)

    def idempotency_guard(self, request: Any) -> RecordGuard | None:
        """The guard for this request; None when it needs no key and brought none."""
        key = self.get_idempotency_key(request)
        if key is None:
            if self.idempotency_required:
                raise MissingKey
            return None
        principal = self._principal(request)
        return record_guard(
            ScopedKey(principal, self.get_idempotency_operation(request), valid_key(key)),
            Fingerprint(self.get_idempotency_fingerprint(request)),
            using=self.get_idempotency_using(request),
            retention=self.idempotency_retention,
            wait=self.idempotency_wait,
            mode=self.idempotency_mode,
            lease=self.idempotency_lease,
            rerun=self.idempotency_rerun,
            steps=self.idempotency_steps,
        )

    def _principal(self, request: Any) -> tuple[str, str]:
        scope = self.get_idempotency_scope(request)
        if scope is not None:
            return principal_of(scope)
        if self.idempotency_allow_anonymous:
            return ANONYMOUS
        raise MissingPrincipal
