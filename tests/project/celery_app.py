"""A Celery app on the broker that the environment names, for workers and for those who send to them."""

from __future__ import annotations

import os

from celery import Celery

from tests import services

VISIBILITY_SECONDS = 1


def make_app(broker: str, prefix: str, write_port: str | None = None) -> Celery:
    """``broker``: "rabbitmq" or "redis". Queues and keys begin with the prefix. ``write_port``: where it is
    reached by those who send."""
    results = {"global_keyprefix": prefix}
    options = {"confirm_publish": True}
    if broker == "redis":
        # Shorter than slow tasks take, and looked after as often.
        options = {
            "global_keyprefix": prefix,
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 0.5,
            "unacked_restore_throttle": 1,
        }
    app = Celery("tests", broker=url(broker), backend=url("redis"), include=["tests.project.tasks"])
    app.conf.update(
        broker_transport_options=options,
        broker_write_url=url(broker, write_port),
        broker_connection_retry_on_startup=True,
        result_backend_transport_options=results,
        result_extended=True,
        task_default_queue=f"{prefix}tasks",
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=4,
    )
    return app


def url(broker: str, port: str | None = None) -> str:
    service = services.SERVICES[broker]
    # On Redis, a database that no other test flushes.
    found = service.url if broker == "rabbitmq" else f"{service.url.rpartition('/')[0]}/14"
    return found.replace(f":{service.port}/", f":{port or service.port}/")


if "TASK_BROKER" in os.environ:
    app = make_app(os.environ["TASK_BROKER"], os.environ["QUEUE_PREFIX"], os.environ.get("TASK_WRITE_PORT"))
