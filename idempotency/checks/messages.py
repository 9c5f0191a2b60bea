"""Where messages come from and go to. Whether a broker is there is not asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from idempotency import conf


def check_messages() -> Iterator[CheckMessage]:
    brokers = getattr(settings, "IDEMPOTENCY_BROKERS", {})
    for alias in brokers if isinstance(brokers, Mapping) else ["default"]:
        try:
            conf.broker(alias)
        except ImproperlyConfigured as error:
            yield Error(str(error), id="idempotency.E027")
    consumers, owners = getattr(settings, "IDEMPOTENCY_CONSUMERS", {}), dict[tuple[str, str], str]()
    for name in consumers if isinstance(consumers, Mapping) else [""]:
        try:
            options = conf.consumer(name)
        except ImproperlyConfigured as error:
            yield Error(str(error), id="idempotency.E028")
            continue
        broker, queue = options["BROKER"], options["QUEUE"]
        if (other := owners.setdefault((broker, queue), name)) != name:
            yield Error(
                f"IDEMPOTENCY_CONSUMERS has {other!r} and {name!r} on one queue, {queue!r}: each would miss "
                "what the other is handed.",
                hint="Give each a queue, and bind both to one exchange.",
                id="idempotency.E028",
            )
        if isinstance(brokers, Mapping) and broker not in brokers:
            yield Error(
                f"IDEMPOTENCY_CONSUMERS[{name!r}] names the broker {broker!r}, which is not set.",
                hint="Add it to IDEMPOTENCY_BROKERS, or name one that is there for BROKER.",
                id="idempotency.E028",
            )
