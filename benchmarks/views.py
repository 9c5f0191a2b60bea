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
    quantity = wanted["quantity"]
    with transaction.atomic() if atomic else nullcontext():
        product = Product.objects.get(pk=wanted["product"])
        enough = Product.objects.filter(pk=product.pk, stock__gte=quantity)
        if not enough.update(stock=F("stock") - quantity):
            return Response({"detail": "Sold out."}, status=409)
        order = Order.objects.create(
            product_id=product.pk,
            customer_id=request.user.pk,
            quantity=quantity,
            total_cents=quantity * product.price_cents,
            reference=wanted["reference"],
        )
        data = {"id": order.pk, "product": product.pk, "quantity": quantity, "total_cents": order.total_cents}
        data |= {"reference": order.reference, "created_at": order.created_at.isoformat()}
        if insert_too:
            insert_record_of_same_bytes()
    return Response(data, status=201, headers={"Location": f"/orders/{order.pk}/"})


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


class TokenView(IdempotencyTokenMixin, BareView):
    idempotency_token_alias = "redis"


class RestoringView(TokenView):
    idempotency_token_on_failure = "restore"


class JointView(IdempotencyTokenMixin, BareView):
    pass


class TokenAndKeyView(IdempotencyKeyMixin, TokenView):
    pass
