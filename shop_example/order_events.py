"""Where other services report what became of an order: the payment service, the warehouse.

Their messages may come twice, and in any order. Each has an id of its own, the same in every copy.
"""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.exceptions import IdempotencyError
from idempotency.problems import problem_response
from shop_example.faults import work_slowly
from shop_example.models import Notice, Order
from shop_example.permissions import MayReportStatus
from shop_example.serializers import OrderEventSerializer


class BaseOrderEventView(APIView):
    permission_classes = [IsAuthenticated, MayReportStatus]

    def post(self, request: Request) -> HttpResponse:
        serializer = OrderEventSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self.receive(serializer.validated_data)

    def receive(self, event: dict[str, Any]) -> HttpResponse:
        raise NotImplementedError


class OrderEventView(BaseOrderEventView):
    """``outcome``: applied; duplicate (that event was applied before); parked (too early, and kept);
    stale (too late). What the status does not allow is refused."""

    def receive(self, event: dict[str, Any]) -> HttpResponse:
        try:
            order = Order.for_event(event["order"])
            outcome = order.transition_to(event["status"], event_id=event["event_id"], by=self.request.user)
        except Order.DoesNotExist as error:
            raise Http404(str(error)) from error
        except IdempotencyError as error:
            return problem_response(error)
        return Response({"order": order.reference, "status": order.status, "outcome": outcome})


class UnguardedOrderEventView(BaseOrderEventView):
    """Takes each message for news."""

    def receive(self, event: dict[str, Any]) -> HttpResponse:
        order = get_object_or_404(Order, reference=event["order"])
        Order.objects.filter(pk=order.pk).update(status=event["status"])
        work_slowly()
        Notice.objects.create(order=order, status=event["status"])
        return Response({"order": order.reference, "status": event["status"]})
