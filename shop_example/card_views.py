"""Paying by card and refunding, twice: as it is, and in steps under a lease.

Neither can be one transaction, nor be within one: between two of theirs the provider is called.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils.decorators import method_decorator
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.status import HTTP_201_CREATED
from rest_framework.viewsets import GenericViewSet, ReadOnlyModelViewSet

from idempotency.mixins import IdempotencyKeyMixin
from shop_example import cards
from shop_example.exceptions import CardDeclined
from shop_example.models import CardPayment, Order
from shop_example.operations import answer, pay_by_card, refund_card
from shop_example.permissions import IsCustomer
from shop_example.serializers import CardPaymentSerializer, CardRefundSerializer

commits_on_its_own = method_decorator(transaction.non_atomic_requests, name="dispatch")


@commits_on_its_own
class UnguardedCardPaymentViewSet(ReadOnlyModelViewSet):
    queryset = CardPayment.objects.all()
    serializer_class = CardPaymentSerializer
    permission_classes = [IsAuthenticated, IsCustomer]

    def get_queryset(self) -> QuerySet[CardPayment]:
        return super().get_queryset().filter(order__customer__user=self.request.user)

    def create(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        payment = self.pay(serializer.validated_data["order"])
        if payment["status"] == CardPayment.Status.GIVEN_UP:
            raise CardDeclined
        return Response(payment, HTTP_201_CREATED)

    def pay(self, order: Order) -> dict[str, Any]:
        return answer(cards.pay_as_it_is(order))


@commits_on_its_own
class UnguardedCardRefundViewSet(GenericViewSet):
    serializer_class = CardRefundSerializer
    permission_classes = [IsAuthenticated, IsCustomer]

    def create(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(self.refund(serializer.validated_data["payment"]), HTTP_201_CREATED)

    def refund(self, payment: CardPayment) -> dict[str, Any]:
        return answer(cards.refund_as_it_is(payment))


class CardPaymentViewSet(IdempotencyKeyMixin, UnguardedCardPaymentViewSet):
    idempotency_mode = "lease"
    idempotency_steps = pay_by_card

    def pay(self, order: Order) -> dict[str, Any]:
        return pay_by_card(order.pk)


class CardRefundViewSet(IdempotencyKeyMixin, UnguardedCardRefundViewSet):
    idempotency_mode = "lease"
    idempotency_steps = refund_card

    def refund(self, payment: CardPayment) -> dict[str, Any]:
        return refund_card(payment.pk)
