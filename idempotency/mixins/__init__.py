"""Idempotency for Django REST framework views."""

from idempotency.mixins.guarded import (
    GuardedViewMixin,
    IdempotencyKeyMixin,
    IdempotencyTokenMixin,
    run_once,
)
from idempotency.mixins.transitions import IdempotencyTransitionMixin

__all__ = [
    "GuardedViewMixin",
    "IdempotencyKeyMixin",
    "IdempotencyTokenMixin",
    "IdempotencyTransitionMixin",
    "run_once",
]
