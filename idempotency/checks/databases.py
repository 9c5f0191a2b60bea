"""Where records are kept, and whether business rows can commit together with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.models import Model

from idempotency.checks.statuses import guarded_models
from idempotency.checks.urlconf import GuardedView, record_aliases
from idempotency.database import SUPPORTED_VENDORS
from idempotency.models import (
    IdempotencyRecord,
    IdempotencyToken,
    LedgerEntry,
    LockFence,
    LockLease,
    ParkedEvent,
    StatusTransition,
    UniqueId,
)
from idempotency.shards.routing import aliases_of
from idempotency.tokens import tokens

OWN_MODELS: tuple[type[Model], ...] = (
    IdempotencyRecord,
    IdempotencyToken,
    StatusTransition,
    ParkedEvent,
    LedgerEntry,
    UniqueId,
    LockLease,
    LockFence,
)


def check_aliases() -> Iterator[CheckMessage]:
    """The records' database, and those of models whose statuses or amounts are guarded."""
    of_models = (alias for model in guarded_models() for alias in aliases_of(model))
    for alias in dict.fromkeys((*record_aliases(), *of_models)):
        yield from check_alias(alias)


def check_alias(alias: str) -> Iterator[CheckMessage]:
    if alias not in connections:
        yield Error(
            f"IDEMPOTENCY_DATABASE names {alias!r}, which DATABASES does not have.",
            hint=f"Use one of {', '.join(connections)}, or leave it out to ask the routers.",
            id="idempotency.E001",
        )
    elif connections[alias].vendor not in SUPPORTED_VENDORS:
        yield Error(
            f"Idempotency records cannot be kept on {connections[alias].display_name} ({alias!r}).",
            hint="Use PostgreSQL, MySQL or MariaDB (InnoDB), or SQLite.",
            id="idempotency.E002",
        )
    elif reads_uncommitted(alias):
        yield Error(
            f"{alias!r} reads uncommitted rows: a retry would get an answer that may yet be rolled back.",
            hint='Set "isolation_level" to "read committed" (Django\'s default) in its OPTIONS.',
            id="idempotency.E009",
        )
    elif connections[alias].vendor == "sqlite" and not begins_immediately(alias):
        yield Warning(
            f"SQLite transactions on {alias!r} begin without the write lock: of two requests at once, one "
            "fails at its first write, after it has run in part.",
            hint=f'Set DATABASES[{alias!r}]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".',
            id="idempotency.W001",
        )


def reads_uncommitted(alias: str) -> bool:
    options = connections[alias].settings_dict.get("OPTIONS") or {}
    level = str(options.get("isolation_level")).lower()
    return connections[alias].vendor == "mysql" and level == "read uncommitted"


def begins_immediately(alias: str) -> bool:
    options = connections[alias].settings_dict.get("OPTIONS") or {}
    return str(options.get("transaction_mode")).upper() in ("IMMEDIATE", "EXCLUSIVE")


def check_same_database(view: GuardedView) -> Iterator[CheckMessage]:
    if view.using is None or view.model is None:
        return
    kept = "record" if view.has_key else "token"
    business = router.db_for_write(view.model)
    if business != view.using and (view.has_key or joins_tokens(view)):
        yield Error(
            f"Its {view.model._meta.label} is written to {business!r} and its idempotency {kept} to "
            f"{view.using!r}: they cannot commit together, so an operation may happen twice.",
            hint=f"Return {business!r} from get_idempotency_using(), or name it in IDEMPOTENCY_DATABASE for "
            "all views, and migrate idempotency there.",
            obj=view,
            id="idempotency.E003",
        )


def joins_tokens(view: GuardedView) -> bool:
    """Whether its tokens are consumed, or restored, with what is taken for the transaction of the work."""
    if view.option("idempotency_token_on_failure") == "restore":
        return True
    with suppress(ImproperlyConfigured):
        return tokens(view.option("idempotency_token_alias")).database == view.using
    return False


def check_engines(views: Iterable[GuardedView], databases: Collection[str]) -> Iterator[CheckMessage]:
    """MySQL only. Asks the database, and knows only tables that are there already."""
    for alias in databases:
        if connections[alias].vendor == "mysql":
            yield from check_tables(alias, guarded_tables(views, alias))


def check_tables(alias: str, tables: Collection[str]) -> Iterator[CheckMessage]:
    if not tables:
        return
    placeholders = ", ".join(["%s"] * len(tables))
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT table_name, engine FROM information_schema.tables "
            f"WHERE table_schema = DATABASE() AND table_name IN ({placeholders}) ORDER BY table_name",
            sorted(tables),
        )
        found = cursor.fetchall()
    for table, engine in found:
        if engine != "InnoDB":
            yield Error(
                f"Table {table} in {alias!r} is {engine}, which has no transactions: what is written to it "
                "stays when its operation is rolled back and run again.",
                hint=f"ALTER TABLE {table} ENGINE = InnoDB",
                id="idempotency.E004",
            )


def guarded_tables(views: Iterable[GuardedView], alias: str) -> set[str]:
    models: list[type[Model]] = [view.model for view in views if view.model]
    models = [model for model in (*models, *guarded_models()) if alias in aliases_of(model)]
    models += [model for model in OWN_MODELS if router.allow_migrate_model(alias, model)]
    parts = {part for model in models for part in (model, *model._meta.all_parents)}
    return {part._meta.db_table for part in parts}
