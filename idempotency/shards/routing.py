from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import Model

from idempotency import conf
from idempotency.keys import Scope
from idempotency.shards.maps import ShardMap, shard_map


class Unroutable(ImproperlyConfigured):
    """Nothing says on which shard it is, and a guess would put one operation into two databases."""


class ShardAlias(str):
    """A database alias, for ``using=`` everywhere, which knows for which slot it stands."""

    slot: int

    def __new__(cls, alias: str, slot: int) -> ShardAlias:
        made = super().__new__(cls, alias)
        made.slot = slot
        return made

    def __getnewargs__(self) -> tuple[str, int]:  # type: ignore[override]
        """Of copies and pickles: rows that are cached carry it."""
        return (str(self), self.slot)


def shard_of(shard_key: Scope) -> ShardAlias:
    """Where what belongs to this key is: ``Order.objects.using(shard_of(user))``.

    ``shard_key``: a model instance, a ``(kind, identifier)`` pair or a text, as for scopes. Raises
    ImproperlyConfigured without IDEMPOTENCY_SHARDS, and MissingPrincipal.
    """
    return on(required_map(), shard_key)


def on(shards: ShardMap, shard_key: Scope) -> ShardAlias:
    slot = shards.slot_of(shard_key)
    return ShardAlias(shards.owners[slot], slot)


def required_map() -> ShardMap:
    if (shards := shard_map()) is None:
        raise ImproperlyConfigured("There are no shards: set IDEMPOTENCY_SHARDS.")
    return shards


def slot_of(using: str | None) -> int | None:
    """Of an alias that was found by a shard key; None where the project's own routing has named one.

    Never ask ``connection.alias``: a connection keeps the first alias that it was asked for by.
    """
    return getattr(using, "slot", None)


def alias_at(alias: str | None, slot: int | None) -> str:
    """Of a row that was read from there."""
    return str(alias) if slot is None or shard_map() is None else ShardAlias(str(alias), slot)


def database_for(model: type[Model], shard_key: Scope | None = None, *, instead: str = "pass using=") -> str:
    """Where rows of the package's own models are, if nobody has said so with ``using=``.

    Raises Unroutable where the databases are shards and there is no shard key; ``instead`` says what to do.
    """
    if (shards := shard_map()) is None:
        return conf.database() or router.db_for_write(model)
    if shard_key is not None:
        return on(shards, shard_key)
    raise Unroutable(
        f"IDEMPOTENCY_SHARDS is set, and nothing says on which shard this {model._meta.verbose_name} is: "
        f"{instead}."
    )


def all_databases(model: type[Model]) -> tuple[str, ...]:
    """All in which there may be rows, for commands and operators."""
    if (shards := shard_map()) is not None:
        return shards.aliases
    return (conf.database() or router.db_for_write(model),)


def aliases_of(model: type[Model]) -> tuple[str, ...]:
    """All to which the project's own model may be written."""
    shards = shard_map()
    return shards.aliases if shards and shards.covers(model) else (router.db_for_write(model),)
