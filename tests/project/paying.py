"""Paying at a provider outside of the database, in the three ways in which a broken call may be meant."""

from __future__ import annotations

import os

import httpx
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.mixins import IdempotencyKeyMixin
from idempotency.steps import (
    NOT_DONE,
    STILL_UNKNOWN,
    Done,
    database_step,
    operation,
    outside_call,
)
from tests.processes.gates import pass_gate
from tests.project.models import Order

CALL_SECONDS = 5


class Declined(Exception):
    """The card's bank says no."""


@database_step()
def reserve(reference, cents):
    order = Order.objects.create(reference=reference, note="reserved", owner=str(cents))
    return {"order": order.pk}


def charge(reference, cents, key):
    """Raises whatever may befall a call."""
    headers = {"Idempotency-Key": key} if key else {}
    with provider() as client:
        answer = client.post("/charges", json={"reference": reference, "cents": cents}, headers=headers)
        if answer.status_code == 402:
            raise Declined(reference)
        answer.raise_for_status()
        return answer.json()["id"]


def provider():
    transport = httpx.HTTPTransport(verify=False)
    return httpx.Client(base_url=os.environ["PROVIDER_URL"], timeout=CALL_SECONDS, transport=transport)


def ask(reference, cents):
    with provider() as client:
        try:
            charges = (
                client.get("/charges", params={"reference": reference}).raise_for_status().json()["charges"]
            )
        except httpx.HTTPError:
            return STILL_UNKNOWN
    return Done(charges[0]["id"]) if charges else NOT_DONE


@outside_call(when_broken="retry", refusals=(Declined,))
def charge_by_key(reference, cents):
    return charge(reference, cents, charge_by_key.downstream_key)


@outside_call(when_broken=ask, refusals=(Declined,))
def charge_and_ask(reference, cents):
    return charge(reference, cents, None)


@outside_call(when_broken="unknown", refusals=(Declined,))
def charge_blindly(reference, cents):
    return charge(reference, cents, None)


@database_step()
def mark_paid(order, charge):
    Order.objects.filter(pk=order).update(note="paid")
    return {"order": order, "charge": charge}


CHARGES = {"retry": charge_by_key, "reconcile": charge_and_ask, "unknown": charge_blindly}


def paying(meaning):
    charge_once = CHARGES[meaning]

    @operation(f"pay-{meaning}", steps=[reserve, charge_once, mark_paid])
    def pay(reference, cents):
        reserved = reserve(reference, cents)
        charged = charge_once(reference, cents)
        return mark_paid(reserved["order"], charged)

    return pay


OPERATIONS = {meaning: paying(meaning) for meaning in CHARGES}


class PayView(IdempotencyKeyMixin, APIView):
    idempotency_mode = "lease"

    def post(self, request):
        pass_gate(request, "X-Early-Gate")
        try:
            paid = self.idempotency_steps(request.data["reference"], request.data["cents"])
        except Declined:
            return Response({"declined": True}, status=402)
        pass_gate(request)
        return Response(paid, status=201, headers={"Location": f"/orders/{paid['order']}/"})


VIEWS = {
    meaning: type(f"PayView_{meaning}", (PayView,), {"idempotency_steps": operation})
    for meaning, operation in OPERATIONS.items()
}
