"""The test project as other processes serve it: on the running test's database."""

import json
import os
from datetime import timedelta

from tests import services
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, IDEMPOTENCY_UNIQUE_IDS, VENDOR

DATABASES["default"] |= {
    "NAME": os.environ["SERVED_DATABASE"],
    # Kept, so that what one request leaves behind on its connection meets the next.
    "CONN_MAX_AGE": None,
    "ATOMIC_REQUESTS": os.environ.get("SERVED_ATOMIC") == "yes",
}
if os.environ.get("SERVED_IMPATIENT") == "yes":
    impatient = {
        "sqlite": {"timeout": 0.2},
        "mariadb": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"},
    }.get(VENDOR, {"options": "-c lock_timeout=300ms"})
    DATABASES["default"].setdefault("OPTIONS", {}).update(impatient)
DATABASES["elsewhere"] |= {"NAME": os.environ["SERVED_ELSEWHERE"]}
if isolation := os.environ.get("SERVED_ISOLATION"):
    if VENDOR != "mariadb":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        isolation = IsolationLevel[isolation.replace(" ", "_").upper()]
    DATABASES["default"].setdefault("OPTIONS", {})["isolation_level"] = isolation

# So that a retry after a crash soon gets through.
CLAIM = timedelta(milliseconds=300)
IDEMPOTENCY_UNIQUE_IDS |= {
    "default": {"CLAIM": CLAIM},
    "redis": {**IDEMPOTENCY_UNIQUE_IDS["redis"], "CLAIM": CLAIM},
}
if os.environ.get("SERVED_PARTITIONS") == "yes":
    IDEMPOTENCY_PARTITIONS = {"PERIOD": timedelta(days=1), "AHEAD": 3}
if "SERVED_LEASE" in os.environ:
    IDEMPOTENCY_LEASE = timedelta(seconds=float(os.environ["SERVED_LEASE"]))
IDEMPOTENCY_BROKERS = {"default": {"URL": os.environ.get("BROKER_URL", services.rabbitmq.url)}}
IDEMPOTENCY_CONSUMERS = {
    name: {
        "QUEUE": f"{os.environ.get('QUEUE_PREFIX', '')}{name}",
        "MAX_ATTEMPTS": 4,
        **json.loads(os.environ.get("CONSUMER_OPTIONS", "{}")),
    }
    for name in ("orders.place", "sms.once", "sms.asked", "sms.again", "parcels.move")
}
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.processes.urls"
# A server error shows in what the process printed.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["console"], "level": "ERROR"}},
}
