from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from idempotency.admin import OwnedColumnsAdminMixin, StatusAdminMixin
from shop_example.models import (
    CardPayment,
    Customer,
    Notice,
    Order,
    Payment,
    Payout,
    Pick,
    Product,
    Shelf,
    StockDeduction,
)
from shop_example.money import money


class ReadOnlyAdmin(admin.ModelAdmin):
    """What happened is looked at here, and made by the API alone."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.display(description="amount", ordering="amount_cents")
def amount(payment: Payment | CardPayment | Payout) -> str:
    return money(payment.amount_cents)


@admin.display(description="total", ordering="total_cents")
def total(order: Order) -> str:
    return money(order.total_cents)


@admin.display(description="balance", ordering="balance_cents")
def balance(customer: Customer) -> str:
    return money(customer.balance_cents)


@admin.register(Product)
class ProductAdmin(OwnedColumnsAdminMixin, admin.ModelAdmin):
    list_display = ["name", "price_cents", "stock"]


@admin.register(Customer)
class CustomerAdmin(ReadOnlyAdmin):
    list_display = ["user", "phone", balance]
    list_select_related = ["user"]


@admin.register(Order)
class OrderAdmin(StatusAdminMixin, ReadOnlyAdmin):
    list_display = ["reference", "customer", "product", "quantity", total, "status", "created_at"]
    list_filter = ["status"]
    list_select_related = ["customer__user", "product"]


@admin.register(StockDeduction)
class StockDeductionAdmin(ReadOnlyAdmin):
    list_display = ["order_reference", "product", "quantity", "created_at"]
    list_select_related = ["product"]


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    list_display = ["order", "customer", amount, "created_at"]
    list_select_related = ["order", "customer__user"]


@admin.register(CardPayment)
class CardPaymentAdmin(StatusAdminMixin, ReadOnlyAdmin):
    list_display = ["order", "customer", amount, "status", "created_at"]
    list_filter = ["status"]
    list_select_related = ["order__customer__user"]

    @admin.display(ordering="order__customer")
    def customer(self, payment: CardPayment) -> Customer:
        return payment.order.customer


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    list_display = ["order", "status", "created_at"]
    list_filter = ["status"]
    list_select_related = ["order"]


@admin.register(Payout)
class PayoutAdmin(ReadOnlyAdmin):
    list_display = ["product", "day", amount, "created_at"]
    list_filter = ["day"]
    list_select_related = ["product"]


@admin.register(Shelf)
class ShelfAdmin(ReadOnlyAdmin):
    list_display = ["place", "product", "pieces"]
    list_select_related = ["product"]


@admin.register(Pick)
class PickAdmin(ReadOnlyAdmin):
    list_display = ["shelf", "quantity", "created_at"]
    list_select_related = ["shelf"]
