"""Where other services report what became of an order: the payment service, the warehouse.

Their messages may come twice, and in any order. Each has an id of its own, the same in every copy.
"""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.mixins import IdempotencyTransitionMixin
from shop_example.faults import work_slowly
from shop_example.models import Notice, Order
from shop_example.permissions import MayReportStatus
from shop_example.serializers import OrderEventSerializer


class BaseOrderEventView(APIView):
    permission_classes = [IsAuthenticated, MayReportStatus]

    def post(self, request: Request) -> HttpResponseBase:
        serializer = OrderEventSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self.take(serializer.validated_data)

    def take(self, event: dict[str, Any]) -> HttpResponseBase:
        raise NotImplementedError


class OrderEventView(IdempotencyTransitionMixin, BaseOrderEventView):
    """Takes each message once, and when its turn comes."""

    def get_transition_event_id(self, request: Request) -> str:
        return self.event_id

    def take(self, event: dict[str, Any]) -> HttpResponseBase:
        self.event_id: str = event["event_id"]
        return self.receive(Order, event["order"], event["status"])


class UnguardedOrderEventView(BaseOrderEventView):
    """Takes each message for news."""

    def take(self, event: dict[str, Any]) -> HttpResponseBase:
        order = get_object_or_404(Order, reference=event["order"])
        Order.objects.filter(pk=order.pk).update(status=event["status"])
        work_slowly()
        Notice.objects.create(order=order, status=event["status"])
        return Response({"status": event["status"]})
