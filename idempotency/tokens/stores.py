from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from idempotency import conf
from idempotency.tokens.base import BaseTokenStore

SETTING = "IDEMPOTENCY_TOKENS"


def tokens(alias: str = "default") -> BaseTokenStore:
    """The token store of one alias of IDEMPOTENCY_TOKENS; without that setting, the database.

    Raises ImproperlyConfigured.
    """
    options = conf.medium(SETTING, alias, BaseTokenStore.DEFAULTS)
    return backend(alias, options["BACKEND"])(alias, options)


def backend(alias: str, path: Any) -> type[BaseTokenStore]:
    try:
        store = import_string(path)
    except (ImportError, AttributeError, TypeError) as error:
        raise ImproperlyConfigured(f"{SETTING}[{alias!r}]['BACKEND'] is {path!r}: {error}") from error
    if not isinstance(store, type) or not issubclass(store, BaseTokenStore):
        raise ImproperlyConfigured(f"{SETTING}[{alias!r}]['BACKEND'] is {path!r}, which is no token store.")
    return store
