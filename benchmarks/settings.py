"""The benchmark's Django project; its environment says on which database, with which driver."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from tests import services

VENDOR = os.environ.get("BENCH_DATABASE", "postgresql")
PACKAGE = os.environ.get("BENCH_PACKAGE", "")
# So that two runs at once do not share a database.
NAME = f"idempotency_bench{os.environ.get('BENCH_SUFFIX', '')}"

if os.environ.get("BENCH_DRIVER", "psycopg2") == "psycopg2":
    # Django prefers psycopg 3 where it finds it.
    sys.modules["psycopg"] = None  # type: ignore[assignment]


def database() -> dict[str, object]:
    common = {"NAME": NAME, "TEST": {"NAME": NAME}, "CONN_MAX_AGE": None}
    if VENDOR == "sqlite":
        os.makedirs("build", exist_ok=True)
        path = os.path.abspath(f"build/{NAME}.sqlite3")
        return {
            **common,
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": path,
            "TEST": {"NAME": path},
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
                "timeout": 30,
            },
        }
    where = {"HOST": services.HOST, "USER": services.USER, "PASSWORD": services.PASSWORD}
    if VENDOR == "mariadb":
        options = {"isolation_level": "read committed", "charset": "utf8mb4"}
        where["PORT"] = str(services.mariadb.port)
        return {**common, **where, "ENGINE": "django.db.backends.mysql", "OPTIONS": options}
    where["PORT"] = str(services.postgresql.port)
    return {**common, **where, "ENGINE": "django.db.backends.postgresql"}


DATABASES = {"default": database()}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "tokens": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": f"redis://{services.HOST}:{services.redis.port}/9",
    },
}
IDEMPOTENCY_TOKENS = {
    "default": {"LIMIT": 10**6},
    "redis": {
        "BACKEND": "idempotency.tokens.redis.RedisTokenStore",
        "LOCATION": "tokens",
        "LIFETIME": timedelta(minutes=5),
        "RETENTION": timedelta(minutes=5),
        "LIMIT": 10**6,
    },
}
IDEMPOTENCY_LOCKS = {
    "redis": {"BACKEND": "idempotency.locks.redis.RedisLockStore", "LOCATION": "tokens"},
    "zookeeper": {
        "BACKEND": "idempotency.locks.zookeeper.ZooKeeperLockStore",
        "LOCATION": services.zookeeper.hosts,
        "TTL": timedelta(seconds=10),
    },
}
IDEMPOTENCY_BROKERS = {"default": {"URL": services.rabbitmq.url}}
SECRET_KEY = "only-for-benchmarks"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework",
    "idempotency",
    "benchmarks",
]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "benchmarks.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["benchmarks.authentication.CostlessAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}

# The other packages, as their own documents say to set them up.
if PACKAGE == "django-idempotency-key":
    MIDDLEWARE = ["idempotency_key.middleware.ExemptIdempotencyKeyMiddleware"]
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache"}}
    CACHES["default"]["LOCATION"] = f"redis://{services.HOST}:{services.redis.port}/9"
    IDEMPOTENCY_KEY = {
        "CONFLICT_STATUS_CODE": None,
        "STORAGE": {"CLASS": "idempotency_key.storage.CacheKeyStorage"},
        "LOCK": {
            "CLASS": "idempotency_key.locks.redis.MultiProcessRedisLock",
            "LOCATION": f"redis://{services.HOST}:{services.redis.port}",
        },
    }
elif PACKAGE == "djangorestframework-idempotency-key":
    INSTALLED_APPS += ["rest_framework_idempotency_key"]
    MIDDLEWARE = ["rest_framework_idempotency_key.middleware.IdempotencyKeyMiddleware"]
    IDEMPOTENCY_KEY_LOCK_TIMEOUT = 60
elif PACKAGE == "drf-idempotencykey":
    INSTALLED_APPS += ["drf_idempotencykey"]
