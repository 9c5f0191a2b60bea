"""The package's own test project, on the database that TEST_DATABASE names."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from tests import services

VENDOR = os.environ.get("TEST_DATABASE", "sqlite")
# So that two runs at once do not share a database.
SUFFIX = os.environ.get("TEST_SUFFIX", "")
ISOLATION = os.environ.get("TEST_ISOLATION", "read committed")

PSYCOPG = os.environ.get("TEST_PSYCOPG", "2")
if PSYCOPG == "2":
    # Django prefers psycopg 3 where it finds it; both are installed here, one is under test.
    sys.modules["psycopg"] = None  # type: ignore[assignment]


def database() -> dict[str, object]:
    if VENDOR == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("TEST_SQLITE", "test.sqlite3"),
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                "timeout": 30,
            },
            # A file: several processes open it.
            "TEST": {"NAME": os.environ.get("TEST_SQLITE", f"test_idempotency{SUFFIX}.sqlite3")},
        }
    common = {"NAME": f"idempotency{SUFFIX}", **services.sign_in(VENDOR)}
    if VENDOR == "mariadb":
        return {
            **common,
            "ENGINE": "django.db.backends.mysql",
            "OPTIONS": {"isolation_level": ISOLATION, "charset": "utf8mb4"},
            "TEST": {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_general_ci"},
        }
    return {
        **common,
        "ENGINE": "django.db.backends.postgresql",
        # A pooler in transaction mode has no session for a cursor to live in.
        "DISABLE_SERVER_SIDE_CURSORS": VENDOR == "pgbouncer",
    }


def elsewhere() -> dict[str, object]:
    """Another database on the same server, where a medium may be that is not the work's."""
    other = database()
    name = f"elsewhere{SUFFIX}"
    test = {**other.get("TEST", {}), "NAME": f"test_{name}.sqlite3" if VENDOR == "sqlite" else f"test_{name}"}  # type: ignore[dict-item]
    return {**other, "NAME": name, "TEST": test}


DATABASES = {"default": database(), "elsewhere": elsewhere()}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": services.redis.url,
        "OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5},
    },
    "redis-cluster": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": services.redis_cluster.url,
        "OPTIONS": {
            "CONNECTION_FACTORY": "idempotency.redis_cluster.ClusterConnectionFactory",
            "SOCKET_TIMEOUT": 5,
        },
    },
}
REDIS_TOKENS = "idempotency.tokens.redis.RedisTokenStore"
IDEMPOTENCY_TOKENS = {
    # All runs share these servers, and their users have the same primary keys.
    "redis": {"BACKEND": REDIS_TOKENS, "LOCATION": "redis", "LIMIT": 1_000_000},
    "redis-cluster": {"BACKEND": REDIS_TOKENS, "LOCATION": "redis-cluster", "LIMIT": 1_000_000},
    "locmem": {"BACKEND": "idempotency.tokens.locmem.LocMemTokenStore"},
}
REDIS_UNIQUE_IDS = "idempotency.unique_ids.redis.RedisUniqueIdStore"
IDEMPOTENCY_UNIQUE_IDS = {
    "elsewhere": {"LOCATION": "elsewhere"},
    "redis": {"BACKEND": REDIS_UNIQUE_IDS, "LOCATION": "redis"},
    "redis-cluster": {"BACKEND": REDIS_UNIQUE_IDS, "LOCATION": "redis-cluster"},
}
REDIS_LOCKS = "idempotency.locks.redis.RedisLockStore"
ZOOKEEPER_LOCKS = "idempotency.locks.zookeeper.ZooKeeperLockStore"
IDEMPOTENCY_LOCKS = {
    "redis": {"BACKEND": REDIS_LOCKS, "LOCATION": "redis"},
    "redis-cluster": {"BACKEND": REDIS_LOCKS, "LOCATION": "redis-cluster"},
    "zookeeper": {
        "BACKEND": ZOOKEEPER_LOCKS,
        "LOCATION": services.zookeeper.hosts,
        "TTL": timedelta(seconds=4),
    },
}
SECRET_KEY = "only-for-tests"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "rest_framework",
    "idempotency",
    "tests.project",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.project.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tests.project.authentication.HeaderAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
