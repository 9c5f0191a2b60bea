"""Views that ask for one-time tokens, on each medium, and where those are issued."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.http import HttpResponse
from django.template import engines
from django.urls import path
from rest_framework.decorators import api_view
from rest_framework.permissions import IsAdminUser
from rest_framework.renderers import StaticHTMLRenderer
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view, require_idempotency_token
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.views import TokenView
from tests.project.views import RevocablePermission, ThrottledView, act, plain_answer

MEDIUMS = ("default", "redis")


class PaymentView(IdempotencyTokenMixin, APIView):
    def get(self, request, **kwargs):
        return act(request.data, request.user)

    post = patch = put = get


class RefundView(PaymentView):
    idempotency_token_purpose = "refund"


class OptionalPaymentView(PaymentView):
    idempotency_token_required = False


class HTMLPaymentView(PaymentView):
    renderer_classes = [StaticHTMLRenderer]

    def handle_exception(self, exc):
        return HttpResponse("<h1>Sorry</h1>", status=400)


class AdminPaymentView(PaymentView):
    permission_classes = [IsAdminUser]


class RevocablePaymentView(PaymentView):
    permission_classes = [RevocablePermission]


class ThrottledPaymentView(PaymentView):
    throttle_classes = ThrottledView.throttle_classes


class VisitorTokenView(TokenView):
    permission_classes = []


class VisitorPaymentView(PaymentView):
    permission_classes = []


class AnyonesTokenView(VisitorTokenView):
    idempotency_allow_anonymous = True


class AnyonesPaymentView(VisitorPaymentView):
    idempotency_allow_anonymous = True


class ScopedByTenant:
    def get_idempotency_scope(self, request):
        return ("tenant", request.META["HTTP_X_TENANT"])


class TenantTokenView(ScopedByTenant, TokenView):
    pass


class TenantPaymentView(ScopedByTenant, PaymentView):
    pass


class ThrottledTokenView(TokenView):
    throttle_classes = ThrottledView.throttle_classes


class AdminTokenView(TokenView):
    permission_classes = [IsAdminUser]


class Ordering(APIView):
    def post(self, request, **kwargs):
        return act(request.data, request.user)


class KeyBeforeTokenView(IdempotencyKeyMixin, IdempotencyTokenMixin, Ordering):
    pass


class TokenBeforeKeyView(IdempotencyTokenMixin, IdempotencyKeyMixin, Ordering):
    pass


def decorated(alias):
    """A Django view with both decorators in either order, sync and async, and REST framework's."""
    token = require_idempotency_token(alias=alias)

    def plain(request):
        return plain_answer(request.POST)

    async def asynchronous(request):
        return await sync_to_async(plain_answer)(request.POST)

    def api(request):
        return act(request.data, request.user)

    post = api_view(["POST"])
    return {
        "plain-key-token": idempotent_view(token(plain)),
        "plain-token-key": token(idempotent_view(plain)),
        "async-key-token": idempotent_view(token(asynchronous)),
        "async-token-key": token(idempotent_view(asynchronous)),
        "above-key-token": idempotent_view(token(post(api))),
        "above-token-key": token(idempotent_view(post(api))),
        "below-key-token": post(idempotent_view(token(api))),
        "below-token-key": post(token(idempotent_view(api))),
        "plain": token(plain),
        "async": token(asynchronous),
        "above": token(post(api)),
        "below": post(token(api)),
    }


PAGE = """{% load idempotency %}<form method="post" enctype="multipart/form-data">
{% idempotency_token purpose alias=alias %}<input name="reference"></form>"""


def checkout(alias):
    """A page with a form, which is sent to itself."""

    @require_idempotency_token(purpose="checkout", alias=alias)
    def view(request):
        if request.method == "GET":
            context = {"purpose": request.GET.get("purpose", "checkout"), "alias": alias}
            return HttpResponse(engines["django"].from_string(PAGE).render(context, request))
        return plain_answer(request.POST)

    return view


def apology(request, error):
    return HttpResponse(f"<h1>{error.code}</h1>", status=200)


@require_idempotency_token(get_refusal=apology)
def apologetic(request):
    return plain_answer(request.POST)


def of(alias):
    on_medium = {"idempotency_token_alias": alias}
    restoring = {**on_medium, "idempotency_token_on_failure": "restore"}
    views = {
        "tokens": TokenView.as_view(**on_medium),
        "visitor-tokens": VisitorTokenView.as_view(**on_medium),
        "anyones-tokens": AnyonesTokenView.as_view(**on_medium),
        "tenant-tokens": TenantTokenView.as_view(**on_medium),
        "consume": PaymentView.as_view(**on_medium),
        "restore": PaymentView.as_view(**restoring),
        "refunds": RefundView.as_view(**on_medium),
        "optional": OptionalPaymentView.as_view(**on_medium),
        "html": HTMLPaymentView.as_view(**on_medium),
        "admin-only": AdminPaymentView.as_view(**on_medium),
        "revocable": RevocablePaymentView.as_view(**on_medium),
        "throttled": ThrottledPaymentView.as_view(**on_medium),
        "visitor": VisitorPaymentView.as_view(**on_medium),
        "anyones": AnyonesPaymentView.as_view(**on_medium),
        "tenant": TenantPaymentView.as_view(**on_medium),
        "key-token": KeyBeforeTokenView.as_view(**on_medium),
        "token-key": TokenBeforeKeyView.as_view(**on_medium),
        "key-token-restore": KeyBeforeTokenView.as_view(**restoring),
        "checkout": checkout(alias),
        **decorated(alias),
    }
    return [path(f"{alias}/{name}/", view) for name, view in views.items()]


urlpatterns = [
    *(pattern for alias in MEDIUMS for pattern in of(alias)),
    path("throttled-tokens/", ThrottledTokenView.as_view()),
    path("admin-tokens/", AdminTokenView.as_view()),
    path("apologetic/", apologetic),
]
