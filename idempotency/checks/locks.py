"""Where locks are kept, and models whose rows they guard."""

from __future__ import annotations

from collections.abc import Iterator

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from idempotency import redis
from idempotency.checks.mediums import Mechanism, check_mediums, named
from idempotency.locks import BaseLockStore, FencedMixin
from idempotency.locks.redis import RedisLockStore

LOCKS = Mechanism(
    BaseLockStore.SETTING,
    BaseLockStore.at,
    RedisLockStore,
    wrong_setting="E022",
    wrong_medium="E023",
    evicted="a lock may be forgotten while it is held, and given to a second holder",
)


def check_locks() -> Iterator[CheckMessage]:
    yield from check_mediums(LOCKS)
    for store in LOCKS.mediums():
        if isinstance(store, RedisLockStore):
            yield from check_ttl(store)
    yield from check_fenced_models()


def check_ttl(store: RedisLockStore) -> Iterator[CheckMessage]:
    try:
        timeout = redis.socket_timeout(store.location)
    except ImproperlyConfigured:
        return  # reported already
    if timeout is not None and store.ttl <= timeout:
        yield Warning(
            f"{named(store)}: its TTL is {store.ttl:g} s, and CACHES[{store.location!r}] waits {timeout:g} s "
            "for an answer: by the time a slow one comes, the lock is lost.",
            hint="Make TTL several times the SOCKET_TIMEOUT, or lower that.",
            id="idempotency.W014",
        )


def check_fenced_models() -> Iterator[CheckMessage]:
    for model in apps.get_models():
        if issubclass(model, FencedMixin) and model.lock_name is FencedMixin.lock_name:
            yield Error(
                "It is written under a lock, and does not say which.",
                hint=f'Give it lock_name(self), which returns f"{model._meta.model_name}:{{self.pk}}".',
                obj=model,
                id="idempotency.E024",
            )
