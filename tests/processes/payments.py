"""Paying at a provider, and what there is to count of it: operations of tests.processes.crashes."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from unittest.mock import patch

from django.db import OperationalError, connection, transaction
from rest_framework.test import APIClient

from idempotency.database import DatabaseNow
from idempotency.decorators import idempotent
from idempotency.exceptions import IdempotencyError
from idempotency.leases.completing import resumed
from idempotency.models import IdempotencyRecord
from tests.processes.views import place_order
from tests.project import paying
from tests.project.models import Order, Product

SOON = 1
STATUSES = {"conflict": 409, "outcome-unknown": 409, "store-unavailable": 503}


def pay(meaning, key):
    client = APIClient(raise_request_exception=False)
    headers = {"Idempotency-Key": key, "X-User": "alice"}
    payment = {"reference": key, "cents": 700}
    response = client.post(f"/pay-{meaning}/", payment, format="json", headers=headers)
    return {"status": response.status_code, "body": response.content.decode()}


def break_off(meaning, key):
    """Money moves, and the answer is lost."""
    charge = paying.charge

    def charge_and_break(*arguments):
        charge(*arguments)
        raise ConnectionError

    with patch.object(paying, "charge", charge_and_break):
        pay(meaning, key)


def complete_and_pay(meaning, key):
    for record in IdempotencyRecord.objects.with_key(key).unfinished().select_related("run"):
        resumed(record)
    return pay(meaning, key)


def found(key):
    with paying.provider() as provider:
        charges = provider.get("/charges", params={"reference": key}).json()["charges"]
    return {
        "orders": list(Order.objects.filter(reference=key).values_list("note", flat=True)),
        "charges": len(charges),
    }


def give_up(key):
    """Nobody waits for those who are known to be gone. One that is halted in the middle of a commit keeps its
    row locked; of one that was killed there, the server notices in a moment."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline and owned(key).exists():
        with suppress(OperationalError), transaction.atomic():
            rows = owned(key)
            if connection.features.has_select_for_update_skip_locked:
                rows = rows.select_for_update(skip_locked=True)
            free = list(rows.values_list("pk", flat=True))
            gone = DatabaseNow() - timedelta(seconds=1)
            IdempotencyRecord.objects.filter(pk__in=free).update(expires_at=gone)


def owned(key):
    return IdempotencyRecord.objects.with_key(key).live().filter(state=IdempotencyRecord.State.RUNNING)


@idempotent(key="reference", mode="lease", rerun=True)
def place_under_a_lease(reference):
    return place_order(reference)


def place(key):
    try:
        return {"status": 201, "body": str(place_under_a_lease(key))}
    except IdempotencyError as error:
        return {"status": STATUSES[error.code], "body": error.code}


def found_placed(key):
    rows = {"orders": Order.objects.filter(reference=key), "products": Product.objects.filter(name=key)}
    return {name: found.count() for name, found in rows.items()}
