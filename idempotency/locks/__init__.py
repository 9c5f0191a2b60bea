"""Locks by name, on Redis, ZooKeeper or a database, and fences for what is written under them."""

from idempotency.locks.base import BaseLockStore
from idempotency.locks.first_wins import FirstWins, first_wins
from idempotency.locks.held import HeldLock
from idempotency.locks.lock import Lock, lock
from idempotency.locks.mixins import FencedMixin

__all__ = ["BaseLockStore", "FencedMixin", "FirstWins", "HeldLock", "Lock", "first_wins", "lock"]
