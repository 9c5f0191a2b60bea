"""One-time tokens: issued by the server ahead of an operation, and consumed by the one call that runs it."""

from idempotency.tokens.answers import OnFailure
from idempotency.tokens.base import BaseTokenStore, IssuedToken
from idempotency.tokens.guard import TokenGuard
from idempotency.tokens.stores import tokens

__all__ = ["BaseTokenStore", "IssuedToken", "OnFailure", "TokenGuard", "tokens"]
