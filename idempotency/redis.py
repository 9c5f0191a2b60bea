"""Scripts on a Redis that django-redis connects to, and its errors as this package's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from hashlib import sha1
from inspect import signature
from typing import Any

from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured

from idempotency.exceptions import StoreUnavailable

# Of a server that is there and cannot write at the moment. redis-py has no classes for some; and of an
# error within a script, Redis 6 and older tell in the middle of another.
PASSING_ERRORS = re.compile(r"(^|[ -])(BUSY|MISCONF|NOREPLICAS|OOM|READONLY|UNKILLABLE) ")


Argument = bytes | int | str


class Script:
    """A Lua script: one step, whatever happens beside it. In a cluster all its keys have one hash tag."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def sha(self) -> str:
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def run(self, alias: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Raises StoreUnavailable, after which it is not known whether the script has run."""
        with outages(alias):
            client = connection(alias)
            try:
                return client.evalsha(self.sha, len(keys), *keys, *arguments)
            except Exception as error:
                # By name: the classes need not be looked up where nothing is wrong.
                if type(error).__name__ != "NoScriptError":
                    raise
                return client.eval(self.text, len(keys), *keys, *arguments)

    def run_many(self, alias: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """One answer per call, in one round trip to each node. Each call is a step of its own: raises
        StoreUnavailable when one could not be done, and others may have been."""
        with outages(alias):
            client = connection(alias)
            answers = self._pipelined(client, calls)
            # A server that does not know the script has run none of them.
            missing = [n for n, answer in enumerate(answers) if type(answer).__name__ == "NoScriptError"]
            if missing:
                client.script_load(self.text)
                again = self._pipelined(client, [calls[number] for number in missing])
                for number, answer in zip(missing, again, strict=True):
                    answers[number] = answer
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

    def _pipelined(self, client: Any, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for keys, arguments in calls:
            pipeline.execute_command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers


@contextmanager
def outages(alias: str) -> Iterator[None]:
    """Redis' errors as StoreUnavailable, where it could not be reached or cannot write at the moment."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and is_outage(error):
            raise StoreUnavailable from error
        if not type(error).__module__.startswith("redis."):
            with suppress(Exception):
                forget_connections(alias)
        raise


def forget_connections(alias: str) -> None:
    """Close those that nobody uses. What a signal's handler raises may leave one with an answer that was
    not read, which the next command would take for its own."""
    client = connection(alias)
    is_cluster = hasattr(client, "get_nodes")
    for node in [node.redis_connection for node in client.get_nodes()] if is_cluster else [client]:
        if node is None:
            continue
        try:
            node.connection_pool.disconnect(inuse_connections=False)
        except TypeError:  # redis-py's blocking pool, before version 6, which knows only all of them
            node.connection_pool.disconnect()


def connection(alias: str) -> Any:
    """django-redis' client for writing. Raises ImproperlyConfigured where the alias has none."""
    try:
        from django_redis import get_redis_connection
    except ImportError as error:
        raise ImproperlyConfigured(
            "Redis is used through django-redis: pip install 'django-idempotency-guard[redis]'."
        ) from error
    try:
        return get_redis_connection(alias, write=True)
    except (NotImplementedError, InvalidCacheBackendError) as error:
        raise not_a_redis(alias, error) from error


def not_a_redis(alias: str, error: Exception) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"CACHES[{alias!r}] must be a Redis of django-redis (django_redis.cache.RedisCache): {error}"
    )


def socket_timeout(alias: str) -> float | None:
    """Seconds that a command waits for its answer; None is for ever. Asks no server.

    Raises ImproperlyConfigured where the alias is no Redis of django-redis.
    """
    try:
        options = caches[alias].client._options  # type: ignore[attr-defined]
    except (AttributeError, InvalidCacheBackendError) as error:
        raise not_a_redis(alias, error) from error
    given = options.get("SOCKET_TIMEOUT") or options.get("CONNECTION_POOL_KWARGS", {}).get("socket_timeout")
    return given or library_timeout()


def library_timeout() -> float | None:
    """redis-py's own default: 5 seconds since version 8, for ever before."""
    from redis.connection import AbstractConnection

    parameters = signature(AbstractConnection.__init__).parameters
    default: float | None = parameters["socket_timeout"].default
    return default


def eviction_policies(alias: str) -> set[str]:
    """``maxmemory-policy`` of every node that has a limit to its memory."""
    from redis.cluster import RedisCluster

    with outages(alias):
        client = connection(alias)
        if isinstance(client, RedisCluster):
            nodes = list(client.info("memory", target_nodes=RedisCluster.PRIMARIES).values())
        else:
            nodes = [client.info("memory")]
    return {node["maxmemory_policy"] for node in nodes if node.get("maxmemory")}


def prefix(alias: str) -> str:
    """The cache's own KEY_PREFIX keeps projects on one Redis apart."""
    own = getattr(caches[alias], "key_prefix", "")
    return f"{own}:idempotency" if own else "idempotency"


def is_outage(error: Exception) -> bool:
    """Whether Redis could not be reached, or cannot write at the moment."""
    from redis import exceptions

    away = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.RedisClusterException)
    refused = (exceptions.ClusterError, exceptions.ReadOnlyError, exceptions.OutOfMemoryError)
    if isinstance(error, (*away, *refused, exceptions.TryAgainError)):
        return True
    return isinstance(error, exceptions.ResponseError) and bool(PASSING_ERRORS.search(str(error)))
