"""The IDEMPOTENCY_* settings, read when they are used, so that override_settings works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

# Of AMQP 0-9-1: two bytes; and 255 bytes with ".dead".
MOST_PREFETCHED, LONGEST_QUEUE = 65535, 250
LONGEST_WAIT = timedelta(seconds=10)
BROKER: dict[str, Any] = {"URL": None, "TRANSPORT_OPTIONS": {}}
PARTITIONS: dict[str, Any] = {"PERIOD": timedelta(days=1), "AHEAD": 3}
SHORTEST_PERIOD, FEWEST_AHEAD, MOST_AHEAD = timedelta(hours=1), 2, 366
CONSUMER: dict[str, Any] = {
    "BROKER": "default",
    "QUEUE": None,
    "QUEUE_ARGUMENTS": None,
    "EXCHANGE": "",
    "ROUTING_KEYS": (),
    "PREFETCH": 10,
    "MAX_ATTEMPTS": 10,
}


def header() -> str:
    """IDEMPOTENCY_HEADER: the request header that carries the key."""
    return getattr(settings, "IDEMPOTENCY_HEADER", "Idempotency-Key")


def token_header() -> str:
    """IDEMPOTENCY_TOKEN_HEADER: the request header that carries a one-time token."""
    return getattr(settings, "IDEMPOTENCY_TOKEN_HEADER", "Idempotency-Token")


def retention() -> timedelta:
    """IDEMPOTENCY_RETENTION: how long a completed record answers for its operation."""
    return duration("IDEMPOTENCY_RETENTION", timedelta(hours=24))


def wait() -> timedelta:
    """IDEMPOTENCY_WAIT: how long a duplicate waits for the first to end before it is refused."""
    return duration("IDEMPOTENCY_WAIT", timedelta(0))


def lease() -> timedelta:
    """IDEMPOTENCY_LEASE: for how long an operation in mode "lease" is its owner's, who renews it while it is
    at work; whoever retries after a crash waits for so long at most."""
    return duration("IDEMPOTENCY_LEASE", timedelta(seconds=30))


def renew_for() -> timedelta:
    """IDEMPOTENCY_RENEW_FOR: for how long a lease is renewed at most; what hangs for longer loses it."""
    return duration("IDEMPOTENCY_RENEW_FOR", timedelta(hours=1))


def reconcile_after() -> timedelta:
    """IDEMPOTENCY_RECONCILE_AFTER: when to ask again for the outcome of a call that was not known."""
    return duration("IDEMPOTENCY_RECONCILE_AFTER", timedelta(seconds=10))


def inbox_retention() -> timedelta:
    """IDEMPOTENCY_INBOX_RETENTION: for how long a message that was handled is known, and not handled again,
    and a dead letter's failures are shown. Longer than any broker or producer sends it again."""
    return duration("IDEMPOTENCY_INBOX_RETENTION", timedelta(days=7))


def outbox_retention() -> timedelta:
    """IDEMPOTENCY_OUTBOX_RETENTION: how long a published message is kept, to be looked at."""
    return duration("IDEMPOTENCY_OUTBOX_RETENTION", timedelta(days=7))


def duration(name: str, default: timedelta) -> timedelta:
    value = getattr(settings, name, default)
    if not isinstance(value, timedelta):
        raise ImproperlyConfigured(f"{name} must be a datetime.timedelta, not {value!r}.")
    return value


def database() -> str | None:
    """IDEMPOTENCY_DATABASE: alias of the database of the records; None asks the routers."""
    return getattr(settings, "IDEMPOTENCY_DATABASE", None)


def max_stored_body() -> int:
    """IDEMPOTENCY_MAX_STORED_BODY: the longest body, in bytes, that is stored and replayed."""
    return getattr(settings, "IDEMPOTENCY_MAX_STORED_BODY", 1024 * 1024)


def extra_replay_headers() -> Sequence[str]:
    """IDEMPOTENCY_REPLAY_HEADERS: names of response headers to replay beside the standard ones."""
    return getattr(settings, "IDEMPOTENCY_REPLAY_HEADERS", ())


def documentation_url() -> str | None:
    """IDEMPOTENCY_DOCUMENTATION_URL: where clients read what a refusal means."""
    return getattr(settings, "IDEMPOTENCY_DOCUMENTATION_URL", None)


def release_completed() -> bool:
    """IDEMPOTENCY_RELEASE_COMPLETED: whether the admin may release an operation that was done."""
    return getattr(settings, "IDEMPOTENCY_RELEASE_COMPLETED", False)


def medium(setting: str, alias: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One alias of a setting shaped like CACHES, such as IDEMPOTENCY_TOKENS, filled up with defaults.

    "default" need not be set. Raises ImproperlyConfigured for an unknown alias or option.
    """
    aliases = getattr(settings, setting, {})
    if not isinstance(aliases, Mapping):
        raise ImproperlyConfigured(f"{setting} must be a dict of aliases, as CACHES is, not {aliases!r}.")
    options = aliases.get(alias, {} if alias == "default" else None)
    if options is None:
        known = ", ".join(map(repr, {"default": None, **aliases}))
        raise ImproperlyConfigured(f"{setting} has no alias {alias!r}: use one of {known}, or add it.")
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f"{setting}[{alias!r}] must be a dict of options, not {options!r}.")
    if unknown := sorted(map(str, options.keys() - defaults.keys())):
        raise ImproperlyConfigured(
            f"{setting}[{alias!r}] has unknown options: {', '.join(unknown)}. It takes {', '.join(defaults)}."
        )
    return {**defaults, **options}


def consumer(name: str) -> dict[str, Any]:
    """IDEMPOTENCY_CONSUMERS: where a consumer's messages come from. A consumer need not be there: by default
    its queue has its name, on the broker "default".

    Raises ImproperlyConfigured.
    """
    consumers = getattr(settings, "IDEMPOTENCY_CONSUMERS", {})
    if not isinstance(consumers, Mapping):
        raise ImproperlyConfigured(f"IDEMPOTENCY_CONSUMERS must be a dict of consumers, not {consumers!r}.")
    defaults = CONSUMER | {"QUEUE": name}
    options = medium("IDEMPOTENCY_CONSUMERS", name, defaults) if name in consumers else defaults
    if fault := consumer_fault(options):
        raise ImproperlyConfigured(f"IDEMPOTENCY_CONSUMERS[{name!r}]: {fault}")
    return options


def consumer_fault(options: Mapping[str, Any]) -> str | None:
    """What is wrong with these options, and what to do."""
    for option in ("PREFETCH", "MAX_ATTEMPTS"):
        value = options[option]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"{option} is a number of messages or attempts from 1 on, not {value!r}."
    if options["PREFETCH"] > MOST_PREFETCHED:
        return f"PREFETCH is {MOST_PREFETCHED} at most, not {options['PREFETCH']}."
    for option in ("BROKER", "QUEUE"):
        if not isinstance(options[option], str) or not options[option]:
            return f"{option} is a name, not {options[option]!r}."
    if len(options["QUEUE"].encode()) > LONGEST_QUEUE:
        return (
            f"QUEUE is longer than {LONGEST_QUEUE} bytes, with which its dead letters' has no name in AMQP."
        )
    arguments = options["QUEUE_ARGUMENTS"]
    if arguments is not None and not isinstance(arguments, Mapping):
        return f"QUEUE_ARGUMENTS is a dict of arguments or None, not {arguments!r}."
    keys = options["ROUTING_KEYS"]
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        return f"ROUTING_KEYS is a list of texts, not {keys!r}."
    if bool(keys) != bool(options["EXCHANGE"]):
        return "EXCHANGE and ROUTING_KEYS bind the queue together: give both, or neither."
    return None


def broker(alias: str) -> dict[str, Any]:
    """IDEMPOTENCY_BROKERS: an alias's URL as kombu takes it, and TRANSPORT_OPTIONS.

    Raises ImproperlyConfigured for an unknown alias or option, and without a URL.
    """
    options = medium("IDEMPOTENCY_BROKERS", alias, BROKER)
    if not isinstance(options["URL"], str) or "://" not in options["URL"]:
        raise ImproperlyConfigured(
            f'IDEMPOTENCY_BROKERS[{alias!r}] needs a URL, such as "amqp://user:password@host:5672//".'
        )
    return options


def partitions() -> dict[str, Any] | None:
    """IDEMPOTENCY_PARTITIONS: on PostgreSQL, the PERIOD of a partition of the record table, and how many are
    made AHEAD. None: it has no partitions.

    Raises ImproperlyConfigured.
    """
    options = getattr(settings, "IDEMPOTENCY_PARTITIONS", None)
    if options is None:
        return None
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f"IDEMPOTENCY_PARTITIONS must be a dict or None, not {options!r}.")
    if unknown := sorted(map(str, options.keys() - PARTITIONS.keys())):
        raise ImproperlyConfigured(
            f"IDEMPOTENCY_PARTITIONS has unknown options: {', '.join(unknown)}. "
            f"It takes {', '.join(PARTITIONS)}."
        )
    options = {**PARTITIONS, **options}
    period, ahead = options["PERIOD"], options["AHEAD"]
    if not isinstance(period, timedelta) or period < SHORTEST_PERIOD or period % timedelta(seconds=1):
        raise ImproperlyConfigured(
            "IDEMPOTENCY_PARTITIONS: PERIOD is a datetime.timedelta of whole seconds, an hour or more, not "
            f"{period!r}."
        )
    if not isinstance(ahead, int) or isinstance(ahead, bool) or not FEWEST_AHEAD <= ahead <= MOST_AHEAD:
        raise ImproperlyConfigured(
            f"IDEMPOTENCY_PARTITIONS: AHEAD is a number of partitions, {FEWEST_AHEAD} to {MOST_AHEAD}, not "
            f"{ahead!r}."
        )
    return options


def aliases(setting: str) -> list[str]:
    configured = getattr(settings, setting, {})
    return list({"default": None, **configured}) if isinstance(configured, Mapping) else ["default"]
