"""Redis Cluster for django-redis, which has no connection factory for it of its own."""

from __future__ import annotations

from threading import Lock
from typing import Any, ClassVar

from django_redis.pool import ConnectionFactory
from redis.cluster import RedisCluster


class ClusterConnectionFactory(ConnectionFactory):
    """For OPTIONS["CONNECTION_FACTORY"] of an alias in CACHES.

    LOCATION names any one node; the others are found. One client per address and process, as the nodes'
    connection pools are its own. CONNECTION_POOL_KWARGS and REDIS_CLIENT_KWARGS go to it.
    """

    _clients: ClassVar[dict[str, RedisCluster]] = {}
    _lock: ClassVar[Lock] = Lock()

    def connect(self, url: str) -> RedisCluster:
        with self._lock:
            if url not in self._clients:
                self._clients[url] = RedisCluster.from_url(url, **self._arguments())
            return self._clients[url]

    def disconnect(self, connection: RedisCluster) -> None:
        connection.disconnect_connection_pools()  # type: ignore[no-untyped-call]

    def _arguments(self) -> dict[str, Any]:
        parameters = self.make_connection_params(None)
        return {
            **{name: value for name, value in parameters.items() if name not in ("url", "parser_class")},
            **self.pool_cls_kwargs,
            **self.redis_client_cls_kwargs,
        }
