"""Each operation twice: as careful teams write it, and the same with the guard before it.

The guard is the mixin and nothing else; what is guarded does not know of it.
"""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.views.generic import TemplateView
from rest_framework.decorators import action
from rest_framework.generics import RetrieveAPIView
from rest_framework.mixins import CreateModelMixin
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import GenericViewSet, ModelViewSet, ReadOnlyModelViewSet

from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin, IdempotencyTransitionMixin
from shop_example.models import Customer, Order, Payment, Product, StockDeduction
from shop_example.permissions import IsCustomer, MayDeductStock
from shop_example.serializers import (
    AccountSerializer,
    OrderSerializer,
    PaymentSerializer,
    ProductSerializer,
    StockDeductionSerializer,
)


class LandingPage(TemplateView):
    template_name = "shop_example/index.html"


class ProductViewSet(ReadOnlyModelViewSet):
    queryset = Product.objects.all()
    serializer_class = ProductSerializer


class AccountView(RetrieveAPIView):
    """The caller's own name and balance."""

    serializer_class = AccountSerializer
    permission_classes = [IsAuthenticated, IsCustomer]

    def get_object(self) -> Customer:
        return self.request.user.customer


class UnguardedOrderViewSet(ModelViewSet):
    queryset = Order.objects.all()
    serializer_class = OrderSerializer
    permission_classes = [IsAuthenticated, IsCustomer]
    http_method_names = ["get", "post", "patch", "head", "options"]

    def get_queryset(self) -> QuerySet[Order]:
        return super().get_queryset().filter(customer__user=self.request.user)

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        serializer.instance = self.request.user.customer.place_order(**serializer.validated_data)


class UnguardedStockDeductionViewSet(ModelViewSet):
    queryset = StockDeduction.objects.all()
    serializer_class = StockDeductionSerializer
    permission_classes = [IsAuthenticated, MayDeductStock]
    http_method_names = ["get", "post", "head", "options"]

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        product = serializer.validated_data.pop("product")
        serializer.instance = product.deduct(**serializer.validated_data)


class UnguardedPaymentViewSet(ModelViewSet):
    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer
    permission_classes = [IsAuthenticated, IsCustomer]
    http_method_names = ["get", "post", "head", "options"]

    def get_queryset(self) -> QuerySet[Payment]:
        return super().get_queryset().filter(customer__user=self.request.user)

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        serializer.instance = self.request.user.customer.pay(**serializer.validated_data)


class UnguardedCheckoutViewSet(CreateModelMixin, GenericViewSet):
    """An order, placed and paid at once."""

    serializer_class = OrderSerializer
    permission_classes = [IsAuthenticated, IsCustomer]

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        serializer.instance = self.request.user.customer.check_out(**serializer.validated_data)


class OrderViewSet(IdempotencyKeyMixin, IdempotencyTransitionMixin, UnguardedOrderViewSet):
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> HttpResponseBase:
        return self.transition(self.get_object(), Order.Status.CANCELLED)

    @action(detail=True, methods=["post"])
    def refund(self, request: Request, pk: str) -> HttpResponseBase:
        return self.transition(self.get_object(), Order.Status.REFUNDED)


class StockDeductionViewSet(IdempotencyKeyMixin, UnguardedStockDeductionViewSet):
    pass


class PaymentViewSet(IdempotencyKeyMixin, UnguardedPaymentViewSet):
    pass


class CheckoutViewSet(IdempotencyTokenMixin, UnguardedCheckoutViewSet):
    idempotency_token_purpose = "checkout"
