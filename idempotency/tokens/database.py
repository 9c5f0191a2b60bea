from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, F, Q
from django.utils import timezone

from idempotency.database import DatabaseNow
from idempotency.exceptions import StoreUnavailable, TooManyTokens
from idempotency.models import IdempotencyToken, TokenQuerySet
from idempotency.shards.claims import held, hold
from idempotency.shards.maps import shard_map
from idempotency.shards.routing import database_for, slot_of
from idempotency.tokens.answers import Answer
from idempotency.tokens.base import BaseTokenStore
from idempotency.tokens.texts import PresentedToken
from idempotency.transactions import asked, translated

logger = logging.getLogger("idempotency")
# On shards it is the holder's.
UNBOUND = ""
LIVE = ExpressionWrapper(Q(expires_at__gt=DatabaseNow()), BooleanField())


class DatabaseTokenStore(BaseTokenStore):
    """Tokens in a table. LOCATION is a database alias, by default the records'.

    Where that is the database of the work too, consuming commits with the work or not at all: neither
    an exception nor a crash spends a token, and on_failure has nothing left to decide. Anywhere else it
    is committed before the work begins.

    LIMIT is checked before the insert: concurrent requests may exceed it by what each of them asks for.
    """

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.database: str = self.location or (UNBOUND if shard_map() else database_for(IdempotencyToken))
        self.slot: int | None = None

    def for_holder(self, holder: tuple[str, str]) -> DatabaseTokenStore:
        if self.location or shard_map() is None:
            return self
        store = copy(self)
        store.database = database_for(IdempotencyToken, holder)
        store.slot = slot_of(store.database)
        return store

    @property
    def rows(self) -> TokenQuerySet:
        return IdempotencyToken.objects.using(self.database)

    def create(self, batch: Sequence[PresentedToken]) -> datetime:
        principal = batch[0].key.principal_digest
        expiry = DatabaseNow() + self.lifetime
        with translated(), held(self.database):
            if self.rows.filter(principal=principal).live().count() + len(batch) > self.limit:
                raise TooManyTokens
            self.rows.bulk_create(
                IdempotencyToken(
                    digest=token.digest,
                    binding=token.binding,
                    principal=principal,
                    expires_at=expiry,
                    kept_until=expiry,
                    slot=self.slot,
                )
                for token in batch
            )
            expires_at = self.rows.values_list("expires_at", flat=True).get(digest=batch[0].digest)
        # Without USE_TZ the databases differ in which time they mean.
        return expires_at if timezone.is_aware(expires_at) else timezone.now() + self.lifetime

    def take(self, token: PresentedToken, nonce: bytes, *, comes_again: bool = False) -> Answer:
        # Within the transaction of the work, where there is one; else committed on the spot.
        with asked(self.database), transaction.atomic(using=self.database, savepoint=False):
            hold(self.database)
            return self._take(token, nonce, comes_again)

    def _take(self, token: PresentedToken, nonce: bytes, comes_again: bool) -> Answer:
        row = self.rows.filter(digest=token.digest)
        free = row.select_for_update(skip_locked=True).annotate(live=LIVE)
        found = free.values_list("pk", "binding", "nonce", "live").first()
        if found is None:
            return Answer.BUSY if row.exists() else Answer.EXPIRED
        pk, binding, used_by, live = found
        if binding != token.binding:
            return Answer.FOREIGN
        if used_by is not None:
            return Answer.WON if used_by == nonce and (live or not comes_again) else Answer.USED
        if not live:
            return Answer.EXPIRED
        # Its condition matters where nothing was locked: SQLite has no row locks.
        issued = self.rows.filter(pk=pk, nonce=None)
        taken = issued.update(nonce=nonce, kept_until=F("expires_at") + self.retention)
        return Answer.WON if taken == 1 else Answer.BUSY

    def give_back(self, token: PresentedToken, nonce: bytes) -> None:
        try:
            with translated():
                taken = self.rows.filter(digest=token.digest, nonce=nonce)
                taken.update(nonce=None, kept_until=F("expires_at"))
        except StoreUnavailable:
            logger.warning("cannot be given back, and stays spent: token %s", token.key)
