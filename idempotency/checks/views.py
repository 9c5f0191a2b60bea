"""What a guarded view says about itself that cannot work, or not as it seems."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import timedelta
from textwrap import dedent
from typing import Any, TypeGuard

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

from idempotency import conf
from idempotency.checks.urlconf import GuardedView
from idempotency.modes import mode_fault
from idempotency.policies import SAFE_METHODS

METHODS = {*SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE"}
# Longer ones overflow the databases' times and intervals.
LONGEST_RETENTION = timedelta(days=36_500)
SHORTEST = {
    "IDEMPOTENCY_LEASE": timedelta(seconds=1),
    "IDEMPOTENCY_RENEW_FOR": timedelta(0),
    "IDEMPOTENCY_RECONCILE_AFTER": timedelta(0),
    "IDEMPOTENCY_INBOX_RETENTION": timedelta(seconds=1),
    "IDEMPOTENCY_OUTBOX_RETENTION": timedelta(seconds=1),
}
BUSY_CALLER = 10
"""Requests a second in the example of what a caller without a throttle can store."""


def check_settings() -> Iterator[CheckMessage]:
    yield from check_retention(getattr(settings, "IDEMPOTENCY_RETENTION", timedelta(hours=24)))
    yield from check_wait(getattr(settings, "IDEMPOTENCY_WAIT", timedelta(0)))
    for name_of_setting, shortest in SHORTEST.items():
        yield from check_duration(name_of_setting, shortest)
    for name_of_setting in ("IDEMPOTENCY_HEADER", "IDEMPOTENCY_TOKEN_HEADER"):
        yield from check_header(name_of_setting, getattr(settings, name_of_setting, "Idempotency-Key"))


def check_duration(setting: str, shortest: timedelta) -> Iterator[CheckMessage]:
    value = getattr(settings, setting, shortest)
    if not isinstance(value, timedelta) or not shortest <= value <= LONGEST_RETENTION:
        yield Error(
            f"{setting} is {value!r}, which is no time to work with.",
            hint=f"Give a datetime.timedelta of at least {shortest.total_seconds():g} seconds.",
            id="idempotency.E026",
        )


def check_header(setting: str, value: Any) -> Iterator[CheckMessage]:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9-]+", value):
        yield Error(
            f"{setting} is {value!r}, which is no name of a header that Django passes on.",
            hint='Use letters, digits and hyphens, such as "Idempotency-Key".',
            id="idempotency.E014",
        )


def check_view(view: GuardedView) -> Iterator[CheckMessage]:
    yield from check_methods(view)
    yield from check_durable(view)
    if view.has_key:
        yield from check_key(view)


def check_key(view: GuardedView) -> Iterator[CheckMessage]:
    yield from check_mode(view)
    yield from check_anonymous(view)
    if (retention := view.option("idempotency_retention")) is not None:
        yield from check_retention(retention, view)
    if (wait := view.option("idempotency_wait")) is not None:
        yield from check_wait(wait, view)
    yield from check_waiting_in_transaction(view)


def check_retention(value: Any, view: GuardedView | None = None) -> Iterator[CheckMessage]:
    if not isinstance(value, timedelta) or not timedelta(0) < value <= LONGEST_RETENTION:
        yield Error(
            f"{name('retention', view)} is {value!r}: a record is kept for more than nothing and at most "
            "100 years.",
            hint="Give a datetime.timedelta that outlasts your clients' last retry, such as "
            "timedelta(hours=24).",
            obj=view,
            id="idempotency.E005",
        )


def check_wait(value: Any, view: GuardedView | None = None) -> Iterator[CheckMessage]:
    if not isinstance(value, timedelta) or value < timedelta(0):
        yield Error(
            f"{name('wait', view)} is {value!r}, which is no time to wait.",
            hint="Give a datetime.timedelta of 0 to 10 seconds.",
            obj=view,
            id="idempotency.E006",
        )
    elif value > conf.LONGEST_WAIT:
        yield Warning(
            f"{name('wait', view)} is {value}; a duplicate waits 10 seconds at most.",
            hint="Give 10 seconds or less, or 0 to refuse at once and let the client retry.",
            obj=view,
            id="idempotency.W004",
        )


def check_mode(view: GuardedView) -> Iterator[CheckMessage]:
    mode, *others = [view.option(f"idempotency_{option}") for option in ("mode", "lease", "rerun", "steps")]
    if fault := mode_fault(mode, *others):
        yield Error(
            f"idempotency_mode and the options beside it do not go together: {fault}",
            hint="docs/outside-calls.md has what belongs to which mode.",
            obj=view,
            id="idempotency.E007",
        )
    elif mode == "lease" and is_in_transaction(view):
        yield Error(
            "Mode 'lease' commits its claim first, and ATOMIC_REQUESTS holds a transaction of "
            f"{view.using!r} open around the view: each request would raise RuntimeError.",
            hint="Put @transaction.non_atomic_requests on the view; on a class-based one "
            '@method_decorator(transaction.non_atomic_requests, name="dispatch").',
            obj=view,
            id="idempotency.E025",
        )


def is_in_transaction(view: GuardedView) -> bool:
    """Whether ATOMIC_REQUESTS opens one around it, in the database of its records."""
    using = view.using
    if using is None or using not in connections or using in view.non_atomic_requests:
        return False
    return bool(connections[using].settings_dict["ATOMIC_REQUESTS"])


def check_methods(view: GuardedView) -> Iterator[CheckMessage]:
    methods = view.option("idempotency_methods")
    names = isinstance(methods, Collection) and not isinstance(methods, str | bytes)
    if not names or not METHODS.issuperset(methods):
        yield Error(
            f"idempotency_methods is {methods!r}: what is no HTTP method in capitals is never guarded.",
            hint='Give a list or tuple such as ("POST", "PATCH").',
            obj=view,
            id="idempotency.E008",
        )
    elif safe := sorted(SAFE_METHODS.intersection(methods)):
        yield Warning(
            f"idempotency_methods contains {', '.join(safe)}: safe methods are never guarded.",
            hint="Remove them, or move what has an effect to POST.",
            obj=view,
            id="idempotency.W005",
        )


def check_anonymous(view: GuardedView) -> Iterator[CheckMessage]:
    if view.option("idempotency_allow_anonymous") and not view.overrides("get_idempotency_scope"):
        yield Warning(
            "Anonymous callers share one scope here, so the key is a bearer secret: whoever knows it "
            "is shown the response.",
            hint="Override get_idempotency_scope() to return a session, a device or a tenant, or let "
            "clients send random keys only (UUID 4) and keep them secret.",
            obj=view,
            id="idempotency.W002",
        )


def check_durable(view: GuardedView) -> Iterator[CheckMessage]:
    if place := durable_block(view):
        yield Warning(
            f"atomic(durable=True) in {place} raises RuntimeError where the guard's transaction lies "
            "around it.",
            hint="Drop durable=True: the guard commits the block's writes together with the record.",
            obj=view,
            id="idempotency.W003",
        )


def check_waiting_in_transaction(view: GuardedView) -> Iterator[CheckMessage]:
    wait = view.option("idempotency_wait")
    wait = getattr(settings, "IDEMPOTENCY_WAIT", timedelta(0)) if wait is None else wait
    if wait and view.option("idempotency_mode") == "atomic" and is_in_transaction(view):
        yield Warning(
            f"A duplicate does not wait here: ATOMIC_REQUESTS holds a transaction of {view.using!r} open, in "
            "which nobody may wait.",
            hint="Put @transaction.non_atomic_requests on the view (the guard brings a transaction of "
            "its own), or let it wait for timedelta(0).",
            obj=view,
            id="idempotency.W006",
        )


def check_throttle(view: GuardedView) -> Iterator[CheckMessage]:
    if view.has_key and not view.is_throttled:
        yield Warning(
            "No throttle bounds how many records one caller stores. " + arithmetic(view),
            hint="Set throttle_classes on the view, or DEFAULT_THROTTLE_CLASSES and _RATES of REST "
            "framework: a caller stores rate x retention x IDEMPOTENCY_MAX_STORED_BODY at most.",
            obj=view,
            id="idempotency.W007",
        )


def durable_block(view: GuardedView) -> str | None:
    """Where the view's code says ``atomic(durable=True)``, as far as its source can be had."""
    for part in view.code:
        with suppress(OSError, TypeError, SyntaxError, ValueError):
            lines, start = inspect.getsourcelines(part)
            for node in ast.walk(ast.parse(dedent("".join(lines)))):
                if is_durable(node):
                    return f"{part.__module__}, line {start + node.lineno - 1}"
    return None


def is_durable(node: ast.AST) -> TypeGuard[ast.Call]:
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "atomic":
        return False
    given = [keyword.value for keyword in node.keywords if keyword.arg == "durable"] + node.args[2:3]
    return any(isinstance(value, ast.Constant) and value.value is True for value in given)


def arithmetic(view: GuardedView) -> str:
    retention = view.option("idempotency_retention") or conf.retention()
    records = int(BUSY_CALLER * retention.total_seconds())
    said = f"At {BUSY_CALLER} requests a second, kept for {retention}, that is {records:,} records"
    if not view.option("idempotency_store_body"):
        return f"{said}."
    bodies = records * conf.max_stored_body() / 2**30
    return f"{said} with bodies of up to {bodies:,.0f} GiB."


def name(option: str, view: GuardedView | None) -> str:
    return f"idempotency_{option}" if view else f"IDEMPOTENCY_{option.upper()}"
