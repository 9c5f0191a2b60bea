"""Whether the map of shards can be read, covers what is guarded, and is the databases' own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import DatabaseError

from idempotency.checks.urlconf import GuardedView
from idempotency.shards.maps import shard_map
from idempotency.shards.stored import known

ROUTER = "idempotency.shards.router.ShardRouter"


def check_map() -> Iterator[CheckMessage]:
    try:
        shards = shard_map()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="idempotency.E030")
        return
    if shards and shards.models and ROUTER not in settings.DATABASE_ROUTERS:
        yield Error(
            "IDEMPOTENCY_SHARDS has MODELS, and nothing routes them: what does not say using() would be "
            "written to the database 'default'.",
            hint=f"Add {ROUTER!r} to DATABASE_ROUTERS, before other routers.",
            id="idempotency.E032",
        )
    if unknown := sorted(label for label in (shards.models if shards else ()) if not is_known(label)):
        yield Error(
            f"IDEMPOTENCY_SHARDS['MODELS'] names what does not exist: {', '.join(map(repr, unknown))}.",
            hint="Give labels of models such as 'shop.Order', or of whole apps; others are not routed.",
            id="idempotency.E034",
        )


def is_known(label: str) -> bool:
    app, _, model = label.partition(".")
    found = next((each for each in apps.get_app_configs() if each.label.lower() == app), None)
    return bool(found and (not model or model in found.models))


def check_covered(view: GuardedView) -> Iterator[CheckMessage]:
    """Of a view that is routed by its shard key."""
    shards = shard_map()
    if shards is None or view.model is None or view.overrides("get_idempotency_using"):
        return
    if not shards.covers(view.model):
        label = view.model._meta.label
        yield Error(
            f"Its {label} is in one database, and its record on the shard of its key: they cannot commit "
            "together, so an operation may happen twice.",
            hint=f"Add {label!r} to IDEMPOTENCY_SHARDS['MODELS'], and its rows to the shards; or return "
            "their database from get_idempotency_using().",
            obj=view,
            id="idempotency.E031",
        )


def check_stored_map(databases: Collection[str]) -> Iterator[CheckMessage]:
    shards = shard_map()
    for alias in shards.aliases if shards else ():
        if shards is None or alias not in databases:
            continue
        try:
            differences = list(known(alias).differences(shards))
        except DatabaseError as error:
            differences = [f"{alias}: {' '.join(str(error).split())}. Is `migrate` done there?"]
        for line in differences:
            yield Error(
                f"IDEMPOTENCY_SHARDS is not the map of its databases. {line}",
                hint="A process of these settings is refused: see `manage.py shards`.",
                id="idempotency.E033",
            )
