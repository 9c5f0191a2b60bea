"""Connections to brokers, by kombu. Imported where messages are consumed or published, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from idempotency import conf

try:
    import kombu
except ImportError as error:
    raise ImproperlyConfigured(
        "Messages need kombu: pip install 'django-idempotency-guard[kombu]'."
    ) from error


CLOSING_SECONDS = 2


def connection(alias: str, **more: Any) -> kombu.Connection:
    """Not opened yet. ``more``: transport options. Raises ImproperlyConfigured."""
    options = conf.broker(alias)
    try:
        made = kombu.Connection(options["URL"], transport_options={**options["TRANSPORT_OPTIONS"], **more})
        _ = made.transport_cls
    except (KeyError, ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"IDEMPOTENCY_BROKERS[{alias!r}] has a URL that kombu cannot open ({error}): "
            'it takes URLs such as "amqp://user:password@host:5672//".'
        ) from error
    return made


def is_amqp(opened: kombu.Connection) -> bool:
    """Whether it is a broker of its own, which confirms and returns, or a store that kombu makes one of."""
    return bool(opened.transport.driver_type == "amqp")


def is_there(opened: kombu.Connection, queue: str) -> bool:
    with throwaway(opened) as channel:
        try:
            kombu.Queue(queue, channel=channel, durable=True).queue_declare(passive=True)
        except opened.channel_errors:
            return False
    return True


def be_impatient(opened: kombu.Connection, seconds: float | None = None) -> None:
    """From now on, a broker that says nothing is waited for no longer, by default than CLOSING_SECONDS."""
    if opened.connected and is_amqp(opened):
        opened.connection.transport.sock.settimeout(CLOSING_SECONDS if seconds is None else seconds)


@contextmanager
def throwaway(opened: kombu.Connection) -> Iterator[Any]:
    """A channel that the broker may close for what is asked on it."""
    channel = opened.channel()
    try:
        yield channel
    finally:
        try:
            channel.close()
        except opened.connection_errors + opened.channel_errors:
            pass


def declare_queue(opened: kombu.Connection, queue: str, arguments: dict[str, Any] | None = None) -> None:
    """A durable queue of this name, unless there is one, of whichever kind."""
    if not is_there(opened, queue):
        with throwaway(opened) as channel:
            kombu.Queue(queue, channel=channel, durable=True, queue_arguments=arguments).queue_declare()
