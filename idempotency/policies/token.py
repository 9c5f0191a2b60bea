from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookieStore

from idempotency import conf
from idempotency.exceptions import InvalidKey, InvalidToken, MissingPrincipal, MissingToken
from idempotency.keys import ANONYMOUS, digest, parse_key, principal_of
from idempotency.policies.base import IdempotencyPolicy, header_value
from idempotency.tokens import BaseTokenStore, IssuedToken, OnFailure, TokenGuard, tokens

if TYPE_CHECKING:
    from idempotency.records import RecordGuard

FORM_FIELD = "idempotency_token"
SESSION_ENTRY = "_idempotency_holder"
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


class TokenPolicy(IdempotencyPolicy):
    """A request brings a one-time token. Mixed into DRF views by IdempotencyTokenMixin; filled from
    arguments by @require_idempotency_token."""

    #: Refuse a request without a token. When False, such a request runs unguarded.
    idempotency_token_required: ClassVar[bool] = True
    #: What tokens must have been issued for, so that no other operation's are good here.
    idempotency_token_purpose: ClassVar[str] = ""
    #: What becomes of the token when the operation fails: "consume" or "restore".
    idempotency_token_on_failure: ClassVar[OnFailure] = "consume"
    #: Alias in IDEMPOTENCY_TOKENS.
    idempotency_token_alias: ClassVar[str] = "default"

    def get_idempotency_token(self, request: Any) -> str | None:
        """The token's text: by default the header's, or that of the form's hidden field."""
        header = header_value(request, conf.token_header())
        if header is not None:
            try:
                return parse_key(header)
            except InvalidKey as error:
                raise InvalidToken from error
        if request.content_type.partition(";")[0] in FORM_TYPES:
            fields = request.POST.getlist(FORM_FIELD)
            if len(fields) > 1:
                raise InvalidToken
            return fields[0] or None if fields else None
        return None

    def get_idempotency_token_holder(self, request: Any) -> tuple[str, str]:
        """Whose token it is, when issued and when used: the scope; for anonymous callers the session."""
        scope = self.get_idempotency_scope(request)
        if scope is not None:
            return principal_of(scope)
        if session := session_holder(request):
            return ("session", session)
        if self.idempotency_allow_anonymous:
            return ANONYMOUS
        raise MissingPrincipal("The token belongs to a user or a session, and this request names neither.")

    def idempotency_token_guard(self, request: Any, record: RecordGuard | None) -> TokenGuard | None:
        token = self.get_idempotency_token(request)
        if token is None:
            if self.idempotency_token_required:
                raise MissingToken
            return None
        store = tokens(self.idempotency_token_alias)
        return store.consume(
            token,
            self.get_idempotency_token_holder(request),
            purpose=self.idempotency_token_purpose,
            on_failure=self.idempotency_token_on_failure,
            nonce=nonce_of(record, store) if record else None,
            using=record.using if record else self.get_idempotency_using(request),
            within=record is not None,
            in_steps=record is not None and not record.is_one_transaction,
        )


def nonce_of(record: RecordGuard, store: BaseTokenStore) -> bytes | None:
    """The same key may bring the same token again, after a crash between the two: as long as the token
    lives, during which the record of what was done must be there to say so."""
    if record.retention < store.lifetime:
        return None
    return digest(b"idem-nonce", (record.key.scope.hex(), record.key.key))


def issue_to_caller(
    policy: TokenPolicy, request: Any, purpose: str = "", count: int | None = None
) -> IssuedToken | list[IssuedToken]:
    """Tokens for whoever makes the request, as the policy says who that is."""
    is_anonymous = policy.get_idempotency_scope(request) is None
    if is_anonymous and not policy.idempotency_allow_anonymous and not session_holder(request):
        begin_session(request)
    holder = policy.get_idempotency_token_holder(request)
    store = tokens(policy.idempotency_token_alias)
    if count is None:
        return store.issue(holder, purpose=purpose)
    return store.issue(holder, purpose=purpose, count=count)


def session_holder(request: Any) -> str | None:
    """What an anonymous caller's tokens are bound to: a digest of the session's key."""
    session = getattr(request, "session", None)
    if session is None:
        return None
    if is_in_cookie(session):
        name = session.get(SESSION_ENTRY)
    else:
        session.keys()  # loads it: a key that the server does not know is none
        name = session.session_key
    return digest(b"idem-session", (name,)).hex() if name else None


def begin_session(request: Any) -> None:
    """Give an anonymous caller a session that tokens can be bound to."""
    session = getattr(request, "session", None)
    if session is None:
        return
    if is_in_cookie(session):
        # Its key is its content, and another one after every change.
        session[SESSION_ENTRY] = secrets.token_urlsafe(16)
    else:
        session.create()


def is_in_cookie(session: Any) -> bool:
    return isinstance(session, SignedCookieStore)
