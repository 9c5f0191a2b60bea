from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from rest_framework.permissions import BasePermission

CUSTOMERS_ONLY = "Only customers have orders, payments and an account."


class IsCustomer(BasePermission):
    message = CUSTOMERS_ONLY

    def has_permission(self, request: Any, view: Any) -> bool:
        return hasattr(request.user, "customer")


class MayDeductStock(BasePermission):
    """For other services of the house, not for customers."""

    message = "Only services that may deduct stock have access."

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.has_perm("shop_example.add_stockdeduction"))


class MayReportStatus(BasePermission):
    """For other services of the house, not for customers."""

    message = "Only services that may change orders have access."

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.has_perm("shop_example.change_order"))


def customers_only(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """IsCustomer for Django's own views."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not hasattr(request.user, "customer"):
            raise PermissionDenied(CUSTOMERS_ONLY)
        return view(request, *args, **kwargs)

    return wrapper
