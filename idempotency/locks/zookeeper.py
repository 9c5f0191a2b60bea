from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from idempotency.clock import now
from idempotency.exceptions import StoreUnavailable
from idempotency.locks.base import BaseLockStore, Ticket
from idempotency.locks.sessions import AWAY, Session, session

# isort: split
# After the sessions, which say what to install where there is none.
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    LockTimeout,
    NoNodeError,
    SessionExpiredError,
)
from kazoo.recipe.lock import Lock as KazooLock
from kazoo.retry import KazooRetry

ROOT = "/idempotency/locks"
ATTEMPTS = 3
BUSY_FOR = 1.0
# Heard of before the listener is told.
IN_DOUBT = (ConnectionClosedError, ConnectionLoss, SessionExpiredError)


class NamedLock(KazooLock):  # type: ignore[misc]
    """kazoo's recipe, among the nodes of its own name only: many locks share one parent, so that none is
    left behind for each name."""

    def __init__(self, client: Any, parent: str, name: str) -> None:
        self._NODE_NAME = f"-{name}-"
        self._EXCLUDE_NAMES = [self._NODE_NAME]
        super().__init__(client, parent)
        # Its own retries have no end, and would hide that the server is away.
        self._retry = KazooRetry(max_tries=ATTEMPTS, max_delay=1, sleep_func=client.handler.sleep_func)


@dataclass
class Place:
    session: Session
    epoch: int
    recipe: NamedLock

    @property
    def is_in_doubt(self) -> bool:
        return self.epoch != self.session.epoch or not self.session.is_connected

    @property
    def node(self) -> str:
        return f"{self.recipe.path}/{self.recipe.node}"

    def is_there(self) -> bool:
        self.session.refuse_fork()
        try:
            return self.session.client.exists(self.node) is not None
        except IN_DOUBT:
            return False
        except AWAY as error:
            raise StoreUnavailable from error

    def remove(self) -> None:
        self.session.remove(self.recipe.path, self.recipe.prefix)


class ZooKeeperLockStore(BaseLockStore):
    """Locks by kazoo's recipe. LOCATION is the ensemble, "host:2181,host:2181/chroot"; CLIENT has further
    arguments of kazoo's KazooClient.

    All locks of a process are in one session of TTL, which the server may bound, and which renews
    itself; a ttl of a lock's own means nothing here. Whenever the session's connection is in doubt, its
    locks are taken for lost, and stay so.
    """

    renews_itself = True

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        if not self.location:
            raise ImproperlyConfigured(f"{self.name_of('LOCATION')} must name the ensemble: 'host:2181'.")
        self.hosts = self.location

    @property
    def session(self) -> Session:
        """A new one after ``disconnect()``."""
        return session(self.hosts, self.ttl, self.options["CLIENT"])

    def acquire(self, ticket: Ticket, ttl: float, wait: float | None) -> float | None:
        self.session.connect()
        parent = f"{ROOT}/{ticket.digest[0]:02x}"
        recipe = NamedLock(self.session.client, parent, ticket.digest.hex())
        recipe.assured_path = parent in self.session.known_paths
        ticket.medium = place = Place(self.session, self.session.epoch, recipe)
        try:
            held = self._acquire(recipe, wait)
        except NoNodeError:  # somebody has deleted the parent
            self.session.known_paths.discard(parent)
            raise StoreUnavailable from None
        except BaseException as error:
            place.remove()
            if isinstance(error, AWAY):
                raise StoreUnavailable from error
            raise
        self.session.known_paths.add(parent)
        ticket.asked_at = now()
        if held and not place.is_in_doubt:
            return None
        place.remove()
        if place.is_in_doubt:
            raise StoreUnavailable
        return BUSY_FOR

    def _acquire(self, recipe: NamedLock, wait: float | None) -> bool:
        with suppress(LockTimeout):
            # kazoo takes no timeout where it does not block.
            return bool(recipe.acquire() if wait is None else recipe.acquire(wait > 0, wait or None))
        return False

    def ask(self, ticket: Ticket, ttl: float, *, waits: bool) -> float | None:
        return self.acquire(ticket, ttl, 0)

    def renew(self, ticket: Ticket, ttl: float) -> bool:
        # There is nothing to do, but to see whether somebody has deleted it.
        return self.holds(ticket)

    def holds(self, ticket: Ticket) -> bool:
        place: Place = ticket.medium
        return not place.is_in_doubt and place.is_there() and not place.is_in_doubt

    def release(self, ticket: Ticket) -> bool | None:
        place: Place = ticket.medium
        if place is None:
            return None
        self.session.refuse_fork()
        if not self.session.is_connected:
            place.remove()
            return False
        was_held = not place.is_in_doubt
        try:
            self.session.client.delete(place.node)
        except NoNodeError:
            return False
        except AWAY:
            place.remove()
        return was_held

    def seconds_left(self, ticket: Ticket, ttl: float) -> float:
        """As long as the connection is in order, that of the session."""
        return 0.0 if ticket.medium is None or ticket.medium.is_in_doubt else self.ttl
