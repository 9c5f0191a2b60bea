"""Rows to begin with. Each is made when it is absent, and left alone when it is there."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission, User
from rest_framework.authtoken.models import Token

from shop_example.models import Customer, Product

PRODUCTS = [("Tea pot", 2_500, 10_000), ("Tea cup", 800, 50_000), ("Green tea, 100 g", 650, 50_000)]
CUSTOMER = "alice"
ORDER_SERVICE = "order-service"
WAREHOUSE = "warehouse"
ADMINISTRATOR = "admin"
BALANCE_CENTS = 10_000_000
PHONE = "+1 555 0100"


def create_samples() -> None:
    """Products, a customer with a balance, and the accounts of two services elsewhere.

    Everybody's password is their name: this is for a loopback address only.
    """
    for name, price_cents, stock in PRODUCTS:
        Product.objects.get_or_create(name=name, defaults={"price_cents": price_cents, "stock": stock})
    Customer.objects.get_or_create(
        user=sample_user(CUSTOMER), defaults={"balance_cents": BALANCE_CENTS, "phone": PHONE}
    )
    permit(ORDER_SERVICE, "add_stockdeduction")
    permit(WAREHOUSE, "change_order")


def create_administrator() -> None:
    if not get_user_model().objects.filter(username=ADMINISTRATOR).exists():
        get_user_model().objects.create_superuser(ADMINISTRATOR, password=ADMINISTRATOR)


def permit(name: str, codename: str) -> None:
    permission = Permission.objects.get(codename=codename, content_type__app_label="shop_example")
    sample_user(name).user_permissions.add(permission)


def sample_user(name: str) -> User:
    existing = get_user_model().objects.filter(username=name).first()
    return existing or get_user_model().objects.create_user(name, password=name)


def token_of(name: str) -> str:
    return Token.objects.get_or_create(user=get_user_model().objects.get(username=name))[0].key
