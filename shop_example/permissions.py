from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission


class IsCustomer(BasePermission):
    message = "Only customers have orders, payments and an account."

    def has_permission(self, request: Any, view: Any) -> bool:
        return hasattr(request.user, "customer")


class MayDeductStock(BasePermission):
    """For other services of the house, not for customers."""

    message = "Only services that may deduct stock have access."

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.has_perm("shop_example.add_stockdeduction"))
