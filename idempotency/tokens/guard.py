from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from idempotency.exceptions import OutcomeUnknown, StoreUnavailable
from idempotency.models import IdempotencyRecord
from idempotency.shards.routing import database_for
from idempotency.tokens.answers import OnFailure, settle
from idempotency.tokens.texts import PresentedToken
from idempotency.work import WorkGuard

if TYPE_CHECKING:
    from idempotency.tokens.base import BaseTokenStore

NONCE_BYTES = 16


class TokenGuard(WorkGuard):
    """Entered at most once per token.

    Leaving by an exception, or after ``abandon()``, is a failure: see OnFailure. A token is not restored
    when the outcome is unknown: the process died, or a commit was not answered.

    In the database of the work, token and work are one transaction: both are kept, or neither is.
    """

    mechanism = "token"

    def __init__(
        self,
        store: BaseTokenStore,
        token: PresentedToken,
        *,
        on_failure: OnFailure = "consume",
        nonce: bytes | None = None,
        using: str | None = None,
        within: bool = False,
        in_steps: bool = False,
    ) -> None:
        using = using or database_for(IdempotencyRecord, token.key.principal)
        is_joint = store.database == using and not in_steps
        self.store = store
        self.token = token
        # The caller's nonce lets its next attempt in again. To give the token back as well could undo
        # that attempt's consumption, if this one's message came late.
        self._is_for_once = nonce is None and not is_joint
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._restores = self._is_for_once and on_failure == "restore"
        super().__init__(
            token.key,
            using=using,
            database=store.database,
            has_transaction=is_joint or self._restores,
            within=within,
            is_joint=is_joint,
        )

    def _take_joint(self) -> None:
        settle(self.store.take(self.token, secrets.token_bytes(NONCE_BYTES)))

    def _take_first(self) -> None:
        settle(self.store.take(self.token, self._nonce, comes_again=not self._is_for_once))

    def _may_fail_open(self) -> bool:
        return self.store.fail_open

    def _give_up(self) -> None:
        if self._is_for_once:
            self.store.give_back(self.token, self._nonce)

    def _free(self) -> None:
        if self._restores:
            self.store.give_back(self.token, self._nonce)

    def _lost_sight(self, failure: BaseException) -> None:
        if self._restores and isinstance(failure, StoreUnavailable):
            # The token stays spent, so a retry would be told that it was used: neither is known.
            raise OutcomeUnknown from failure
