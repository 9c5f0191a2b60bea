"""The checkout for people with a browser: without JavaScript, and twice, with the guard and without.

The guard is the decorator, and the hidden field that the form has for it.
"""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_http_methods

from idempotency.decorators import require_idempotency_token
from idempotency.exceptions import IdempotencyError
from idempotency.problems import problem_response
from shop_example.exceptions import Refused
from shop_example.forms import CheckoutForm
from shop_example.permissions import customers_only

LATEST = 5
View = Callable[..., HttpResponse]

# Headline and explanation by the refusal's code. None claims more than the refusal does: a form that was
# sent before need not have been in order then.
REFUSALS = {
    "duplicate": (
        "This form was sent before",
        "It counts once, so nothing was ordered a second time. Your latest orders show what became of it.",
    ),
    "conflict": (
        "Your order is being worked on",
        "Wait a moment. Then look at your latest orders before you order again.",
    ),
    "expired-token": ("This form is too old", "It was not used now. Your latest orders show what you have."),
    "missing-token": ("Something is missing in this form", "Nothing was ordered. Please start again."),
    "invalid-token": ("This form cannot be used", "Nothing was ordered. Please start again."),
    "store-unavailable": (
        "We could not finish your order",
        "Wait a moment. Then look at your latest orders before you order again.",
    ),
}


def page(view: View) -> View:
    """For customers who are signed in; asked for anew each time, but where the browser goes back: the form
    it then shows is the one that was sent, whose token is used, and not one that could order again."""
    methods, own = require_http_methods(["GET", "HEAD", "POST"]), cache_control(private=True, no_cache=True)
    return methods(own(login_required(customers_only(view))))


def refusal(request: HttpRequest, error: IdempotencyError) -> HttpResponse:
    """The refusal as a page, with the status and the headers of the problem document in its place."""
    title, text = REFUSALS.get(error.code, ("Nothing was ordered", error.detail))
    context = {"code": error.code, "title": title, "text": text, **latest_orders(request)}
    response = problem_response(error)
    response.content = render_to_string("shop_example/refusal.html", context, request)
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


@page
@require_idempotency_token(purpose="checkout", get_refusal=refusal)
def checkout(request: HttpRequest) -> HttpResponse:
    return check_out(request, guarded=True)


@page
def unguarded_checkout(request: HttpRequest) -> HttpResponse:
    return check_out(request, guarded=False)


def check_out(request: HttpRequest, *, guarded: bool) -> HttpResponse:
    """The form, or for a form that was sent the way to the receipt."""
    is_sent = request.method == "POST"
    form, status = CheckoutForm(request.POST if is_sent else None), 400 if is_sent else 200
    if form.is_valid():
        try:
            order = request.user.customer.check_out(**form.cleaned_data)
        except Refused as error:
            status = error.status_code
            form.add_error(None, str(error.detail))
        else:
            return HttpResponseRedirect(reverse("receipt", args=[order.pk]), status=303)
    context = {"form": form, "guarded": guarded, **latest_orders(request)}
    return render(request, "shop_example/checkout.html", context, status=status)


@page
def receipt(request: HttpRequest, pk: int) -> HttpResponse:
    order = get_object_or_404(request.user.customer.orders.select_related("product"), pk=pk)
    return render(request, "shop_example/receipt.html", {"order": order})


def latest_orders(request: HttpRequest) -> dict[str, object]:
    return {"orders": request.user.customer.orders.select_related("product")[:LATEST]}
