"""Where mechanisms keep what they know: what is the same for tokens, unique ids and locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from idempotency import conf, redis
from idempotency.database import SUPPORTED_VENDORS
from idempotency.exceptions import StoreUnavailable
from idempotency.mediums import BaseMedium


class Mechanism(NamedTuple):
    """Its mediums, and how its checks are told from another's."""

    setting: str
    at: Callable[[str], BaseMedium]
    #: Its class for django-redis.
    redis: type[BaseMedium]
    wrong_setting: str
    wrong_medium: str
    #: What becomes of it in a Redis that evicts.
    evicted: str

    def mediums(self) -> Iterator[BaseMedium | ImproperlyConfigured]:
        configured = getattr(settings, self.setting, {})
        for alias in conf.aliases(self.setting):
            if isinstance(configured, Mapping) and alias not in configured:
                continue  # the records' database, which has checks of its own
            try:
                yield self.at(alias)
            except ImproperlyConfigured as error:
                yield error

    def redis_locations(self) -> set[str]:
        return {str(medium.location) for medium in self.mediums() if isinstance(medium, self.redis)}


def check_mediums(mechanism: Mechanism) -> Iterator[CheckMessage]:
    for medium in mechanism.mediums():
        if isinstance(medium, ImproperlyConfigured):
            yield Error(str(medium), id=f"idempotency.{mechanism.wrong_setting}")
            continue
        if isinstance(medium, mechanism.redis):
            yield from check_redis(mechanism, medium)
        elif medium.database is not None and medium.location:
            yield from check_database(mechanism, medium, medium.database)
        if getattr(medium, "fail_open", False):
            yield Warning(
                f"{named(medium)} fails open: while it is away, operations run unguarded.",
                hint="Set FAIL_OPEN to False, unless running twice is better than not running for a while.",
                id="idempotency.W009",
            )


def named(medium: BaseMedium) -> str:
    return f"{medium.SETTING}[{medium.alias!r}]"


def check_database(mechanism: Mechanism, medium: BaseMedium, database: str) -> Iterator[CheckMessage]:
    if database not in connections:
        yield Error(
            f"{named(medium)} names the database {database!r}, which DATABASES does not have.",
            hint=f"Use one of {', '.join(connections)} for LOCATION, or leave it out.",
            id=f"idempotency.{mechanism.wrong_medium}",
        )
    elif connections[database].vendor not in SUPPORTED_VENDORS:
        yield Error(
            f"{named(medium)} cannot be kept on {connections[database].display_name}.",
            hint="Use PostgreSQL, MySQL or MariaDB (InnoDB), or SQLite.",
            id=f"idempotency.{mechanism.wrong_medium}",
        )


def check_redis(mechanism: Mechanism, medium: BaseMedium) -> Iterator[CheckMessage]:
    location = str(medium.location)
    try:
        timeout = redis.socket_timeout(location)
    except ImproperlyConfigured as error:
        yield Error(
            f"{named(medium)}: {error}",
            hint="Name an alias of CACHES in LOCATION whose BACKEND is django_redis.cache.RedisCache.",
            id=f"idempotency.{mechanism.wrong_medium}",
        )
        return
    if timeout is None:
        yield Warning(
            f"CACHES[{location!r}] has no timeout: a Redis that hangs holds its callers for ever.",
            hint='Set "SOCKET_TIMEOUT" and "SOCKET_CONNECT_TIMEOUT", in seconds, in its OPTIONS.',
            id="idempotency.W010",
        )


def check_eviction(mechanisms: Iterable[Mechanism]) -> Iterator[CheckMessage]:
    """Asks each Redis; one that is away is not this check's to report."""
    kept: dict[str, list[str]] = {}
    for mechanism in mechanisms:
        for location in mechanism.redis_locations():
            kept.setdefault(location, []).append(mechanism.evicted)
    for location, evicted in kept.items():
        try:
            policies = redis.eviction_policies(location)
        except (StoreUnavailable, ImproperlyConfigured):
            continue
        if forgetful := sorted(policies - {"noeviction"}):
            yield Warning(
                f"CACHES[{location!r}] evicts ({', '.join(forgetful)}): {'; '.join(evicted)}.",
                hint="Set maxmemory-policy to noeviction there, or use a Redis of their own.",
                id="idempotency.W012",
            )
