"""System checks: what can be known to go wrong before a request does.

Errors: E001 no such database, E002 unsupported database, E003 record and business rows in two
databases, E004 a table without transactions, E005 retention, E006 wait, E007 mode, E008 methods,
E009 MySQL reads uncommitted rows, E010 IDEMPOTENCY_TOKENS, E011 a medium that cannot keep tokens,
E012 a view's token options, E013 consumption held back by ATOMIC_REQUESTS, E014 header names, E015 a
model's transitions, E016 its ordering, E017 a lookup that is not unique, E018 a log in another database,
E019 ledger fields, E020 IDEMPOTENCY_UNIQUE_IDS, E021 a medium that cannot keep unique ids,
E022 IDEMPOTENCY_LOCKS, E023 a medium that cannot keep locks, E024 a fenced model without its lock,
E025 mode lease under ATOMIC_REQUESTS, E026 durations of leases, inbox and outbox,
E027 IDEMPOTENCY_BROKERS, E028 IDEMPOTENCY_CONSUMERS, E029 partitions of the record table that processes
do not agree with, E030 IDEMPOTENCY_SHARDS, E031 business rows that are not on shards, E032 no router for
those that are, E033 shards with another map, E034 models for shards that do not exist.

Warnings: W001 SQLite without IMMEDIATE, W002 anonymous callers share a scope, W003 durable=True,
W004 a wait that is cut, W005 safe methods, W006 waiting under ATOMIC_REQUESTS, W007 no throttle,
W008 views that share tokens, W009 failing open, W010 Redis without a timeout, W011 tokens issued
without a throttle, W012 Redis that evicts, W013 records that are gone before tokens are,
W014 a ttl that a slow answer outlasts, W015 partitions that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from django.core.checks import CheckMessage, Tags, register

TAG = "idempotency"


@register(TAG)
def check_setup(**kwargs: Any) -> list[CheckMessage]:
    # Imported when checks run: DRF's settings may import what imports DRF, while apps are loading.
    from idempotency.checks.databases import check_aliases, check_same_database
    from idempotency.checks.locks import check_locks
    from idempotency.checks.mediums import check_mediums
    from idempotency.checks.messages import check_messages
    from idempotency.checks.partitions import check_partitions
    from idempotency.checks.shards import check_covered, check_map
    from idempotency.checks.statuses import check_ledgers, check_logs, check_statuses
    from idempotency.checks.tokens import check_stores, check_token_views
    from idempotency.checks.unique_ids import UNIQUE_IDS
    from idempotency.checks.urlconf import guarded_views
    from idempotency.checks.views import check_settings, check_view

    if unreadable := [error for error in check_map() if error.id == "idempotency.E030"]:
        return unreadable
    views = guarded_views()
    of_views = chain.from_iterable(
        (*check_same_database(view), *check_covered(view), *check_view(view)) for view in views
    )
    of_models = chain(check_statuses(), check_ledgers(), check_logs())
    of_settings = chain(
        *(check_aliases(), check_settings(), check_stores(), check_mediums(UNIQUE_IDS), check_locks()),
        *(check_messages(), check_map(), check_partitions()),
    )
    return [*of_settings, *of_views, *check_token_views(views), *of_models]


@register(TAG, Tags.database)
def check_database(*, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    from idempotency.checks.databases import check_engines
    from idempotency.checks.partitions import check_partitioned_tables
    from idempotency.checks.shards import check_map, check_stored_map
    from idempotency.checks.urlconf import guarded_views

    if any(error.id == "idempotency.E030" for error in check_map()):
        return []
    asked = databases or ()
    of_tables = (check_engines(guarded_views(), asked), check_partitioned_tables(asked))
    return [*chain(*of_tables), *check_stored_map(asked)]


@register(TAG, Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    from idempotency.checks.locks import LOCKS
    from idempotency.checks.mediums import check_eviction
    from idempotency.checks.tokens import TOKENS, check_issuing
    from idempotency.checks.unique_ids import UNIQUE_IDS
    from idempotency.checks.urlconf import guarded_views
    from idempotency.checks.views import check_throttle

    of_views = chain.from_iterable(map(check_throttle, guarded_views()))
    return [*of_views, *check_issuing(), *check_eviction((TOKENS, UNIQUE_IDS, LOCKS))]
