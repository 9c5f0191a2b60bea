from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, overload

from django.utils import timezone

from idempotency import conf
from idempotency.exceptions import StoreUnavailable
from idempotency.keys import Scope, principal_of
from idempotency.mediums import BaseMedium
from idempotency.signals import announce, failed_open
from idempotency.tokens.answers import Answer, OnFailure
from idempotency.tokens.guard import TokenGuard
from idempotency.tokens.texts import PresentedToken, new_texts, valid_purpose


@dataclass(frozen=True)
class IssuedToken:
    """``token`` is the text that the client sends back; ``expires_at`` is by the store's clock."""

    token: str
    expires_at: datetime

    def __str__(self) -> str:
        return self.token


class BaseTokenStore(BaseMedium):
    """Tokens in one medium: each consumed at most once, by the principal and for the purpose it was
    issued to, until its lifetime is over. A used token is remembered for the retention beyond that.

    After a crash a token may have been spent on nothing, except where it is consumed in the
    transaction of the work itself (``database``).
    """

    SETTING = "IDEMPOTENCY_TOKENS"
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "BACKEND": "idempotency.tokens.database.DatabaseTokenStore",
        "LOCATION": None,
        "LIFETIME": timedelta(hours=1),
        "RETENTION": None,
        "LIMIT": 1000,
        "FAIL_OPEN": False,
    }

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.lifetime = self.duration("LIFETIME")
        self._retention = None if options["RETENTION"] is None else self.duration("RETENTION")
        self.limit = self.count("LIMIT")
        self.fail_open = self.flag("FAIL_OPEN")

    @property
    def retention(self) -> timedelta:
        """For how long a used token is remembered when its lifetime is over."""
        return conf.retention() if self._retention is None else self._retention

    @overload
    def issue(self, principal: Scope, *, purpose: str = ...) -> IssuedToken: ...
    @overload
    def issue(self, principal: Scope, *, purpose: str = ..., count: int) -> list[IssuedToken]: ...
    def issue(
        self, principal: Scope, *, purpose: str = "", count: int | None = None
    ) -> IssuedToken | list[IssuedToken]:
        """A token for one operation of the principal, or a list of ``count``, in one round trip.

        ``principal``: a model instance such as the user, a ``(kind, identifier)`` pair or a text.
        ``purpose``: what it may be used for, which consuming must name too. Raises ValueError,
        TooManyTokens (LIMIT within one LIFETIME), MissingPrincipal or StoreUnavailable.
        """
        wanted = 1 if count is None else count
        if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= self.limit:
            raise ValueError(f"Tokens are issued 1 to {self.limit} at a time, not {wanted!r}.")
        holder, purpose = principal_of(principal), valid_purpose(purpose)
        batch = [PresentedToken(text, holder, purpose) for text in new_texts(holder, wanted)]
        store = self.for_holder(holder)
        try:
            expires_at = store.create(batch)
        except StoreUnavailable as error:
            if not self.fail_open:
                raise
            # They pass while the store is away, and have expired when it is back.
            announce(failed_open, batch[0].key, using=store.database, mechanism="token", error=error)
            expires_at = timezone.now() + self.lifetime
        issued = [IssuedToken(token.text, expires_at) for token in batch]
        return issued[0] if count is None else issued

    def consume(
        self,
        token: str,
        principal: Scope,
        *,
        purpose: str = "",
        on_failure: OnFailure = "consume",
        nonce: bytes | None = None,
        using: str | None = None,
        within: bool = False,
        in_steps: bool = False,
    ) -> TokenGuard:
        """``with tokens().consume(text, user): …`` enters at most once per token.

        Raises InvalidToken at once when it is malformed; entering raises InvalidToken (another
        principal's or purpose's), ExpiredToken, DuplicateToken, OperationInProgress or StoreUnavailable.

        ``on_failure``: see OnFailure. ``using``: alias of the database where the work is committed, by
        default the records'. ``nonce``: 16 bytes that stand for whoever consumes it, and who is let in again
        with it while the lifetime lasts, except in the database of the work. ``within``: a guard's
        transaction on ``using`` is open around this one and decides about the work. ``in_steps``: the work
        has no transaction, but commits in several; the token is then consumed before the first.
        """
        if on_failure not in ("consume", "restore"):
            raise ValueError(f"on_failure is 'consume' or 'restore', not {on_failure!r}.")
        presented = PresentedToken(token, principal_of(principal), valid_purpose(purpose))
        return TokenGuard(
            *(self.for_holder(presented.key.principal), presented),
            on_failure=on_failure,
            nonce=nonce,
            using=using,
            within=within,
            in_steps=in_steps,
        )

    def for_holder(self, holder: tuple[str, str]) -> BaseTokenStore:
        """The same, where this principal's tokens are."""
        return self

    @abstractmethod
    def create(self, batch: Sequence[PresentedToken]) -> datetime:
        """Store new tokens of one principal and purpose; say when they expire. All or none, and once,
        however often the medium repeats it. Raises TooManyTokens or StoreUnavailable."""

    @abstractmethod
    def take(self, token: PresentedToken, nonce: bytes, *, comes_again: bool = False) -> Answer:
        """Consume in one step. WON also when the very nonce has consumed it before; where another attempt
        may come with it again (``comes_again``), only while the token's own lifetime lasts.

        Raises StoreUnavailable, after which it is not known whether it was consumed.
        """

    @abstractmethod
    def give_back(self, token: PresentedToken, nonce: bytes) -> None:
        """Make a token that this nonce consumed good again, for what is left of its lifetime; do nothing
        to any other. May be repeated, and put off while the store is away."""
