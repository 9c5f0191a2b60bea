from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

from idempotency.exceptions import StoreUnavailable
from idempotency.keys import ScopedKey, digest, valid_id
from idempotency.signals import announce, failed_open
from idempotency.unique_ids.base import Answer, BaseUniqueIdStore, OnFailure, Said
from idempotency.unique_ids.guard import NONCE_BYTES, UniqueIdGuard, in_progress
from idempotency.work import ATTEMPTS

Id = str | int | UUID
# Seconds after which a store may have forgotten that an addition was this caller's own.
TRUSTED_SECONDS = 50


def unique_ids(alias: str = "default", name: str = "", *, using: str | None = None) -> UniqueIds:
    """The ids of one alias of IDEMPOTENCY_UNIQUE_IDS; without that setting, of the database.

    ``name`` keeps those of different things apart: an order's id and a message's, two consumers of one
    event. ``using``: on shards, and without a LOCATION, whose ids these are (``shard_of(…)``). Settings are
    read when it is used: raises ImproperlyConfigured then.
    """
    return UniqueIds(alias, name, using=using)


class UniqueIds:
    """Ids (texts of 1 to 255 printable ASCII characters, ints or UUIDs) that were handled.

    Adding an id before its work loses the work when that fails; afterwards, it may happen twice. Use
    ``once()``, or ``@idempotent(guard=unique_ids())``, which knows what became of the work.
    All methods raise InvalidKey (a malformed id) and StoreUnavailable.
    """

    def __init__(self, alias: str = "default", name: str = "", *, using: str | None = None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"The name that keeps ids apart is a text, not {name!r}.")
        self.alias, self.name, self.using = alias, name, using

    @property
    def store(self) -> BaseUniqueIdStore:
        return self.store_for(None)

    def store_for(self, using: str | None) -> BaseUniqueIdStore:
        """Where the work is committed, unless the alias has a place of its own."""
        return BaseUniqueIdStore.at(self.alias).bound(using or self.using)

    def add(self, id: Id) -> bool:
        """Count an id as handled. True: it was not before, within WINDOW. In one round trip.

        Raises OperationInProgress while somebody is handling it. After StoreUnavailable it counts as not
        added; if it was, that is undone as soon as the store is back, within a minute.
        """
        return self.add_many([id])[0]

    def add_many(self, ids: Iterable[Id]) -> list[bool]:
        """``add()`` for each of them, in one round trip. When one raises, none was added."""
        if isinstance(ids, str | bytes):
            raise TypeError(f"add_many() takes several ids, not one: {ids!r}.")
        digests = [self.digest(id) for id in ids]
        different = list(dict.fromkeys(digests))
        if not different:
            return []
        store, nonce = self.store, secrets.token_bytes(NONCE_BYTES)
        try:
            told = self._add(store, different, nonce)
            self._refuse_claimed(told)
        except StoreUnavailable as error:
            store.give_up(different, nonce)
            if not store.fail_open:
                raise
            announce(failed_open, None, using=store.database, mechanism="unique-id", error=error)
            told = [Said(Answer.WON)] * len(different)
        except BaseException:
            # Somebody is handling one of them; or a signal's handler has raised, as a time limit's does.
            with suppress(Exception):
                store.give_up(different, nonce)
            raise
        won = {digest for digest, said in zip(different, told, strict=True) if said.answer is Answer.WON}
        # The second of two equal ones comes after the first.
        firsts = {digest: number for number, digest in reversed([*enumerate(digests)])}
        return [number == firsts[digest] and digest in won for number, digest in enumerate(digests)]

    def __contains__(self, id: Id) -> bool:
        """Whether it counts as handled. It may be otherwise in a moment: to act on it, use ``add()``."""
        store = self.store
        try:
            return store.contains(self.digest(id))
        except StoreUnavailable as error:
            if not store.fail_open:
                raise
            announce(failed_open, None, using=store.database, mechanism="unique-id", error=error)
            return False

    def discard(self, id: Id) -> None:
        """Forget an id, so that it may be handled again. Raises OperationInProgress while it is being
        handled, where that is to be seen: not of a transaction in the database of the work."""
        nonce, digest = secrets.token_bytes(NONCE_BYTES), self.digest(id)
        self._refuse_claimed([self.store.remove(digest, nonce)])

    def once(self, id: Id, *, on_failure: OnFailure | None = None, using: str | None = None) -> UniqueIdGuard:
        """``with unique_ids().once(message_id): …`` is entered once per id.

        Entering raises AlreadyHandled, OperationInProgress or StoreUnavailable. ``on_failure``: see
        OnFailure; by default what the alias says. ``using``: alias of the database where the work is
        committed, by default the records'.
        """
        key = ScopedKey(("unique-id", self.alias), self.name, valid_id(id, "id"))
        store, using = self.store_for(using), using or self.using
        return UniqueIdGuard(store, self.digest(id), key, on_failure=on_failure, using=using)

    def guard_for(self, key: ScopedKey, *, using: str | None = None) -> UniqueIdGuard:
        """What ``@idempotent(guard=…)`` enters. Operations and scopes keep ids apart, as the name does."""
        own = digest(b"idem-unique-op", (self.name, *key.principal, key.operation, key.key))
        return UniqueIdGuard(self.store_for(using), own, key, using=using or self.using)

    def digest(self, id: Id) -> bytes:
        return digest(b"idem-unique-id", (self.name, valid_id(id, "id")))

    def _add(self, store: BaseUniqueIdStore, digests: list[bytes], nonce: bytes) -> list[Said]:
        """A reply may be lost: then it is asked for again, with the same nonce."""
        deadline = time.monotonic() + TRUSTED_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                told = store.add(digests, nonce)
            except StoreUnavailable:
                if attempt == ATTEMPTS or time.monotonic() > deadline:
                    raise
                continue
            if time.monotonic() <= deadline:
                return told
            break
        raise StoreUnavailable

    @staticmethod
    def _refuse_claimed(told: list[Said]) -> None:
        if claimed := [said for said in told if said.answer is Answer.CLAIMED]:
            raise in_progress(max(claimed, key=lambda said: said.left))
