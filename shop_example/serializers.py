from __future__ import annotations

from typing import Any

from rest_framework import serializers

from shop_example.models import CardPayment, Customer, Order, Payment, Product, StockDeduction


class ProductSerializer(serializers.ModelSerializer):
    class Meta:
        model = Product
        fields = ["id", "name", "price_cents", "stock"]


class AccountSerializer(serializers.ModelSerializer):
    name = serializers.CharField(source="user.get_username", read_only=True)

    class Meta:
        model = Customer
        fields = ["name", "balance_cents"]


class OrderSerializer(serializers.ModelSerializer):
    """What was ordered is settled by the first answer; the note may change later."""

    class Meta:
        model = Order
        fields = ["id", "reference", "product", "quantity", "total_cents", "status", "note", "created_at"]
        read_only_fields = ["reference", "total_cents", "status"]

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        if isinstance(self.instance, Order):
            fields["product"].read_only = fields["quantity"].read_only = True
        return fields


class StockDeductionSerializer(serializers.ModelSerializer):
    class Meta:
        model = StockDeduction
        fields = ["id", "product", "quantity", "order_reference", "created_at"]


class OwnOrderField(serializers.PrimaryKeyRelatedField):
    def get_queryset(self) -> Any:
        return Order.objects.filter(customer__user=self.context["request"].user)


class PaymentSerializer(serializers.ModelSerializer):
    order = OwnOrderField()

    class Meta:
        model = Payment
        fields = ["id", "order", "amount_cents", "created_at"]


class CardPaymentSerializer(serializers.ModelSerializer):
    order = OwnOrderField()

    class Meta:
        model = CardPayment
        fields = ["id", "order", "amount_cents", "status", "charge", "refund", "created_at"]
        read_only_fields = ["amount_cents", "status", "charge", "refund"]


class OwnCardPaymentField(serializers.PrimaryKeyRelatedField):
    def get_queryset(self) -> Any:
        return CardPayment.objects.filter(order__customer__user=self.context["request"].user)


class CardRefundSerializer(serializers.Serializer):
    payment = OwnCardPaymentField()


class OrderEventSerializer(serializers.Serializer):
    """A message of another service. Its id is compared byte for byte, so nothing is trimmed off it."""

    event_id = serializers.RegexField(
        r"\A[\x20-\x7e]+\Z",
        max_length=255,
        trim_whitespace=False,
        error_messages={"invalid": "Give 1 to 255 printable ASCII characters, the same in every copy."},
    )
    order = serializers.CharField(max_length=64, help_text="The order's reference.")
    status = serializers.ChoiceField(Order.Status.choices)
