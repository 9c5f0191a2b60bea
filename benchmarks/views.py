"""The endpoint that is measured: check a product, deduct stock, insert an order."""

from __future__ import annotations

import json
from contextlib import nullcontext
from secrets import token_bytes
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.models import Order, Product
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.models import IdempotencyRecord
from idempotency.steps import database_step, operation

TABLE = IdempotencyRecord._meta.db_table
COLUMNS = (
    *("key_digest", "scope", "principal", "idempotency_key", "operation", "fingerprint"),
    *("state", "status", "headers", "body", "body_state", "created_at", "expires_at"),
)
INSERT = f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * 11)}, {{0}}, {{0}})"
KNOWN = b"0" * 16
LOOKUP = f"SELECT id, fingerprint, status, headers, body FROM {TABLE} WHERE key_digest = %s AND scope = %s"


class OrderSerializer(serializers.Serializer):
    product = serializers.IntegerField(min_value=1)
    quantity = serializers.IntegerField(min_value=1, max_value=100)
    reference = serializers.CharField(max_length=60)
    note = serializers.CharField(max_length=200, required=False)


def create_order(request: Any, *, atomic: bool, insert_too: bool = False) -> Response:
    serializer = OrderSerializer(data=request.data)
    serializer.is_valid(raise_exception=True)
    wanted = serializer.validated_data
    with transaction.atomic() if atomic else nullcontext():
        data = write_order(wanted["product"], wanted["quantity"], wanted["reference"], request.user.pk)
        if insert_too:
            insert_record_of_same_bytes()
    return Response(data, status=201, headers={"Location": f"/orders/{data['id']}/"})


def write_order(product_id: int, quantity: int, reference: str, customer: int) -> dict[str, Any]:
    product = Product.objects.get(pk=product_id)
    enough = Product.objects.filter(pk=product.pk, stock__gte=quantity)
    if not enough.update(stock=F("stock") - quantity):
        raise serializers.ValidationError({"detail": "Sold out."})
    order = Order.objects.create(
        product_id=product.pk,
        customer_id=customer,
        quantity=quantity,
        total_cents=quantity * product.price_cents,
        reference=reference,
    )
    data = {"id": order.pk, "product": product.pk, "quantity": quantity, "total_cents": order.total_cents}
    return data | {"reference": order.reference, "created_at": order.created_at.isoformat()}


def insert_record_of_same_bytes(digest: bytes | None = None) -> None:
    now = {"sqlite": "datetime('now')", "mysql": "UTC_TIMESTAMP(6)"}.get(
        connection.vendor, "statement_timestamp()"
    )
    digest, body = digest or token_bytes(16), b"x" * 130
    headers = '{"Content-Type":"application/json","Location":"/orders/10000/","Vary":"Accept"}'
    identity = (digest, digest, digest, "0" * 36, "POST guarded/", digest + b"1")
    with connection.cursor() as cursor:
        cursor.execute(INSERT.format(now), (*identity, 2, 201, headers, body, 1))


class BareView(APIView):
    atomic = True

    def post(self, request: Any) -> Response:
        return create_order(request, atomic=self.atomic)


class InsertingView(BareView):
    """The least that durability costs: the record's bytes in the view's own transaction."""

    def post(self, request: Any) -> Response:
        return create_order(request, atomic=True, insert_too=True)


class LookupView(BareView):
    """The least that a replay costs: an authenticated request and one SELECT by the unique index."""

    def post(self, request: Any) -> Response:
        with connection.cursor() as cursor:
            cursor.execute(LOOKUP, (KNOWN, KNOWN))
            _id, _fingerprint, status, headers, body = cursor.fetchone()
        return Response(bytes(body).decode(), status=status, headers=json.loads(headers))


class GuardedView(IdempotencyKeyMixin, BareView):
    pass


class LeasedView(GuardedView):
    idempotency_mode = "lease"


@database_step()
def order(product: int, quantity: int, reference: str, customer: int) -> dict[str, Any]:
    return write_order(product, quantity, reference, customer)


@operation("benchmarks.order", steps=[order])
def order_in_a_step(product: int, quantity: int, reference: str, customer: int) -> dict[str, Any]:
    return order(product, quantity, reference, customer)


class SteppedView(LeasedView):
    idempotency_steps = order_in_a_step

    def post(self, request: Any) -> Response:
        serializer = OrderSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wanted = serializer.validated_data
        data = order_in_a_step(wanted["product"], wanted["quantity"], wanted["reference"], request.user.pk)
        return Response(data, status=201, headers={"Location": f"/orders/{data['id']}/"})


class TokenView(IdempotencyTokenMixin, BareView):
    idempotency_token_alias = "redis"


class RestoringView(TokenView):
    idempotency_token_on_failure = "restore"


class JointView(IdempotencyTokenMixin, BareView):
    pass


class TokenAndKeyView(IdempotencyKeyMixin, TokenView):
    pass
