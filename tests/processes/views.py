"""Views of more than one write, which can be stopped in between."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta

from django.db import OperationalError, connection, transaction
from django.db.models import F
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.unique_ids import unique_ids
from tests.processes.gates import pass_gate
from tests.project.models import Order, Product


def place_order(reference, request=None):
    order = Order.objects.create(reference=reference)
    if request is not None:
        pass_gate(request)
    Product.objects.create(name=reference)
    return {"id": order.pk, "reference": reference}


class RaceView(IdempotencyKeyMixin, APIView):
    def check_permissions(self, request):
        super().check_permissions(request)
        # After the caller's row was read, before the guard.
        pass_gate(request, "X-Early-Gate")

    def post(self, request):
        answer = place_order(request.data["reference"], request)
        if request.data.get("refuse"):
            raise ValidationError("not so")
        return Response(answer, status=201, headers={"Location": f"/orders/{answer['id']}/"})


class TokenRaceView(IdempotencyTokenMixin, APIView):
    def check_permissions(self, request):
        super().check_permissions(request)
        # gunicorn keeps a thread waiting on a connection whose last payload nobody has read, and a refused
        # token's is not: more connections than threads would then stand still.
        _ = request.data

    post = RaceView.post


class TokenAndKeyRaceView(IdempotencyTokenMixin, RaceView):
    pass


class LeaseRaceView(RaceView):
    idempotency_mode = "lease"


class WaitingRaceView(RaceView):
    idempotency_wait = timedelta(seconds=10)


@idempotent(key="reference")
def order_by_function(reference):
    return place_order(reference)


def handle(id, reference):
    """A message that comes with an id."""
    place_order(reference)
    return "ran"


HANDLERS = {
    alias: idempotent(guard=unique_ids(alias), key="id", operation=f"deliver {alias}")(handle)
    for alias in ("default", "redis")
}


class TransferView(IdempotencyKeyMixin, APIView):
    """Takes one of each product, in the order it is told, and deadlocks against the opposite order."""

    def post(self, request):
        data = request.data
        if data.get("impatient"):
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
        Order.objects.create(reference=data["reference"])
        first, second = data["products"]
        take(first)
        pass_gate(request)
        try:
            with transaction.atomic() if data.get("nested") else nullcontext():
                take(second)
        except OperationalError:
            if not data.get("swallow"):
                raise
        return Response({"reference": data["reference"]}, status=201)


def take(product):
    Product.objects.filter(pk=product).update(stock=F("stock") - 1)
