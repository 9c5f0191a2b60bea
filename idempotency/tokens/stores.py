from __future__ import annotations

from idempotency.tokens.base import BaseTokenStore


def tokens(alias: str = "default") -> BaseTokenStore:
    """The token store of one alias of IDEMPOTENCY_TOKENS; without that setting, the database.

    Raises ImproperlyConfigured.
    """
    return BaseTokenStore.at(alias)
