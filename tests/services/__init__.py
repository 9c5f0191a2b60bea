"""
The servers that tests talk to: where they are, whether they can be used, and how they start.

Needs nothing but Python: it runs before there is a virtual environment, `python -m tests.services start`.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from tests.services.base import HOST, PASSWORD, USER, Service, Unavailable
from tests.services.mariadb import MariaDB
from tests.services.pgbouncer import PgBouncer
from tests.services.postgresql import PostgreSQL
from tests.services.rabbitmq import RabbitMQ
from tests.services.redis import Redis
from tests.services.redis_cluster import RedisCluster
from tests.services.zookeeper import ZooKeeper

__all__ = [
    "CI",
    "HOST",
    "PASSWORD",
    "SERVICES",
    "USER",
    "Service",
    "Unavailable",
    "available",
    "mariadb",
    "missing",
    "pgbouncer",
    "postgresql",
    "rabbitmq",
    "redis",
    "redis_cluster",
    "sign_in",
    "zookeeper",
]

CI = os.environ.get("CI", "").lower() in {"true", "1"}
"""A missing service fails instead of being skipped."""

postgresql, mariadb, redis, redis_cluster = PostgreSQL(), MariaDB(), Redis(), RedisCluster()
rabbitmq, zookeeper, pgbouncer = RabbitMQ(), ZooKeeper(), PgBouncer()

SERVICES: dict[str, Service] = {
    service.name: service
    for service in (postgresql, mariadb, redis, redis_cluster, rabbitmq, zookeeper, pgbouncer)
}


@cache
def missing(name: str) -> str | None:
    """Why a service cannot be used from this Python, and the way to get it; None when it can."""
    service = SERVICES[name]
    if service.driver and find_spec(service.driver[0]) is None:
        module, remedy = service.driver
        return f"{name}: this Python has no {module} ({remedy})"
    try:
        service.probe()
    except (Unavailable, OSError) as error:
        return f"{name}: {error} ({service.remedy})"
    return None


def available(name: str) -> bool:
    return missing(name) is None


def sign_in(name: str) -> dict[str, str]:
    """The part of a Django DATABASES entry that says where a server is and who signs in."""
    return {"HOST": HOST, "PORT": str(SERVICES[name].port), "USER": USER, "PASSWORD": PASSWORD}
