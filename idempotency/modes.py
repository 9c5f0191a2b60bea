"""Two modes, one record: everything in one transaction, or a claim that is committed first."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, get_args

from django.core.exceptions import ImproperlyConfigured

from idempotency import conf
from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.leases import LeaseGuard
from idempotency.records import RecordGuard
from idempotency.steps import Operation

Mode = Literal["atomic", "lease"]
MODES = get_args(Mode)


def record_guard(
    key: ScopedKey,
    fingerprint: Fingerprint,
    *,
    using: str,
    retention: timedelta | None,
    wait: timedelta | None,
    mode: Mode,
    lease: timedelta | None,
    rerun: bool,
    steps: Operation[..., Any] | None,
    is_answer: bool = False,
) -> RecordGuard:
    """``is_answer``: whether the result of ``steps`` is the answer. Raises ImproperlyConfigured for what does
    not go together."""
    if fault := mode_fault(mode, lease, rerun, steps):
        raise ImproperlyConfigured(fault)
    wait = conf.wait() if wait is None else wait
    if mode == "atomic":
        return RecordGuard(key, fingerprint, using=using, retention=retention, wait=wait)
    return LeaseGuard(
        *(key, fingerprint),
        using=using,
        retention=retention,
        wait=wait,
        lease=lease,
        rerun=rerun,
        operation=steps,
        is_answer=is_answer,
    )


def mode_fault(mode: object, lease: object, rerun: object, steps: object) -> str | None:
    """What is wrong with these options, and what to do."""
    if mode not in MODES:
        return f"mode is {mode!r}, which is unknown: use {' or '.join(map(repr, MODES))}."
    if mode == "atomic" and (lease is not None or rerun or steps is not None):
        return "lease, rerun and steps are of mode 'lease': set it, or leave them out."
    if steps is not None and not isinstance(steps, Operation):
        return f"steps is what @operation (idempotency.steps) made of a function, not {steps!r}."
    if steps is not None and rerun:
        return "rerun and steps exclude each other: with steps, the operation goes on from its last point."
    if lease is not None and not (isinstance(lease, timedelta) and timedelta(seconds=1) <= lease):
        return f"lease is {lease!r}: give a datetime.timedelta of at least a second."
    return None
