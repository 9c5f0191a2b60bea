from __future__ import annotations

from typing import Any

from django.db import router
from django.db.models import Model

from idempotency.nesting import innermost
from idempotency.shards.maps import ShardMap, shard_map
from idempotency.shards.routing import Unroutable


class ShardRouter:
    """``DATABASE_ROUTERS = ["idempotency.shards.router.ShardRouter"]``: for what does not say ``using()``.

    Rows of the map's MODELS are where the guard is whose block asks, else where the row is that they are
    reached from. Refuses with Unroutable what neither says, and what would tear an operation apart: a row of
    one shard within an operation on another. Says nothing about other models.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return self._place(model, hints.get("instance"))

    db_for_write = db_for_read

    def allow_relation(self, first: Model, second: Model, **hints: Any) -> bool | None:
        shards = shard_map()
        if shards is None or not (shards.covers(first) and shards.covers(second)):
            return None
        return first._state.db == second._state.db

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool | None:
        shards, label = shard_map(), f"{app_label}.{model_name or ''}".lower()
        if shards is None or db in shards.aliases or not {app_label.lower(), label} & shards.models:
            return None
        return False

    def _place(self, model: type[Model], instance: Model | None) -> str | None:
        shards = shard_map()
        if shards is None:
            return None
        if not (shards.covers(model) or is_own(model)):
            return elsewhere(shards, model, instance)
        guarded = innermost("using")
        here = guarded if guarded in shards.aliases else None
        there = shard_of_row(shards, instance)
        if here and there and here != there:
            raise Unroutable(
                f"{instance!r} is on {str(there)!r}, and the operation that uses it on {str(here)!r}: they "
                "cannot commit together. Give the operation the shard key of its rows."
            )
        if found := here or there:
            return str(found)
        raise Unroutable(
            f"Nothing says on which shard this {model._meta.verbose_name} is: use "
            f"{model.__name__}.objects.using(shard_of(…)), from idempotency.shards."
            f"{pointed_to(shards, instance)}"
        )


def elsewhere(shards: ShardMap, model: type[Model], instance: Model | None) -> str | None:
    """What a row on a shard points to that is on none, such as an order's user: without an answer Django
    would look on the shard. Each database has content types of its own."""
    if instance is None or not shards.covers(instance) or model._meta.app_label == "contenttypes":
        return None
    return router.db_for_read(model)


def pointed_to(shards: ShardMap, instance: Model | None) -> str:
    """Django asks where a row is to be as soon as it is given an object, before it knows of ``using()``."""
    if instance is None or shards.covers(instance) or is_own(type(instance)):
        return ""
    name = type(instance).__name__
    return f" Where it only points to a {name}, which is not on shards, give the {name}'s id and no object."


def is_own(model: type[Model]) -> bool:
    return model._meta.app_label == "idempotency"


def shard_of_row(shards: ShardMap, instance: Model | None) -> str | None:
    """Of a row whose like is spread; one that was not saved yet is nowhere."""
    if instance is None or not (shards.covers(instance) or is_own(type(instance))):
        return None
    return instance._state.db if instance._state.db in shards.aliases else None
