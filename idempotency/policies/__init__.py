"""What a view says about its own idempotency: attributes for the usual, hooks for the rest."""

from idempotency.keys import Scope
from idempotency.policies.base import SAFE_METHODS, IdempotencyPolicy
from idempotency.policies.key import KeyPolicy
from idempotency.policies.token import TokenPolicy

__all__ = ["SAFE_METHODS", "IdempotencyPolicy", "KeyPolicy", "Scope", "TokenPolicy"]
