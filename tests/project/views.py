"""Views that do whatever a test asks of them, after writing an order."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from rest_framework import serializers, viewsets
from rest_framework.decorators import api_view
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.parsers import FileUploadParser, FormParser, JSONParser, MultiPartParser
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from idempotency.decorators import idempotent, idempotent_view
from idempotency.mixins import IdempotencyKeyMixin
from tests.project.models import Order

HOOKS_RUN = []
PDF = b"%PDF-1.7\x00\xff\xfe\r\n" + bytes(range(256))


class Teapot(APIException):
    status_code = 418
    default_detail = "a teapot"


def break_a_constraint():
    Order.objects.create(reference="broken", note="forbidden")


def swallow(status):
    with suppress(IntegrityError):
        break_a_constraint()
    return Response({"swallowed": True}, status=status)


def raw_swallow(status):
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")
    return Response({"swallowed": True}, status=status)


def swallow_another_error(status):
    """As Django's own atomic(savepoint=False) blocks do around signal receivers."""
    with suppress(ValueError), transaction.atomic(savepoint=False):
        raise ValueError
    return Response({"swallowed": True}, status=status)


def in_a_savepoint():
    with suppress(IntegrityError), transaction.atomic():
        break_a_constraint()
    return Response({"saved": True}, status=201)


def fail(error):
    raise error


def hook(error=None):
    def run():
        HOOKS_RUN.append("hook")
        if error:
            raise error

    transaction.on_commit(run)
    return Response({"hooked": True}, status=201)


def cookie():
    response = Response({"ok": True}, status=201, headers={"Location": "/orders/1/", "X-Kept": "yes"})
    response.set_cookie("session", "secret-cookie")
    response["Authorization"] = "secret-authorization"
    return response


def rolled_back_on_purpose():
    transaction.set_rollback(True)
    return Response({"dry": "run"}, status=200)


ACTIONS = {
    "return-400": lambda: Response({"no": "way"}, status=400),
    "return-401": lambda: Response({}, status=401),
    "return-429": lambda: Response({}, status=429),
    "return-500": lambda: Response({}, status=500),
    "return-303": lambda: Response(status=303, headers={"Location": "/elsewhere/"}),
    "raise-400": lambda: fail(ValidationError("not so")),
    "raise-403": lambda: fail(PermissionDenied()),
    "raise-418": lambda: fail(Teapot()),
    "raise": lambda: fail(RuntimeError("unhandled")),
    "swallow-201": lambda: swallow(201),
    "swallow-400": lambda: swallow(400),
    "swallow-other-201": lambda: swallow_another_error(201),
    "raw-swallow-201": lambda: raw_swallow(201),
    "raw-swallow-400": lambda: raw_swallow(400),
    "savepoint": in_a_savepoint,
    "hook": hook,
    "failing-hook": lambda: hook(RuntimeError("hook")),
    "cookie": cookie,
    "set-rollback": rolled_back_on_purpose,
    "pdf": lambda: HttpResponse(PDF, content_type="application/pdf"),
    "text": lambda: HttpResponse("grüße", content_type="text/plain; charset=latin-1"),
    "empty": lambda: Response(status=204),
    "stream": lambda: StreamingHttpResponse(iter([b"a", b"b"]), headers={"ETag": '"e"', "Location": "/l/"}),
    "big": lambda: HttpResponse(b"x" * (1024 * 1024 + 1), headers={"ETag": '"e"', "Location": "/l/"}),
    "template": lambda: TemplateResponse(None, "admin/404.html"),
    "file": lambda: FileResponse(__file__),
    "unrenderable": lambda: Response(object(), status=201),
    "close": lambda: (connection.close(), Response(status=201))[1],
}


def act(data, user=""):
    order = Order.objects.create(reference=str(data.get("reference", "")), owner=str(user))
    if data.get("do"):
        return ACTIONS[data["do"]]()
    return Response({"id": order.pk, "reference": order.reference}, status=201)


class OrderView(IdempotencyKeyMixin, APIView):
    def post(self, request, **kwargs):
        return act(request.data, request.user)

    patch = put = delete = post

    def get(self, request):
        return Response({"orders": Order.objects.count()})


class WaitingView(OrderView):
    idempotency_wait = timedelta(seconds=10)


class OptionalView(OrderView):
    idempotency_required = False


class BodilessView(OrderView):
    idempotency_store_body = False


class AnonymousView(OrderView):
    permission_classes = []
    idempotency_allow_anonymous = True


class NobodyView(OrderView):
    permission_classes = []


class DeletingView(OrderView):
    idempotency_methods = ("POST", "DELETE")


class BusinessKeyView(OrderView):
    def get_idempotency_key(self, request):
        return request.data.get("event")


class TenantView(OrderView):
    def get_idempotency_scope(self, request):
        return ("tenant", request.META["HTTP_X_TENANT"])


class ThrottledView(OrderView):
    class Throttle(UserRateThrottle):
        rate = "5/day"

    throttle_classes = [Throttle]


class RevocablePermission(BasePermission):
    def has_permission(self, request, view):
        return request.user.is_active and request.user.last_name != "revoked"


class GuardedByPermissionView(OrderView):
    permission_classes = [IsAuthenticated, RevocablePermission]


class UploadView(IdempotencyKeyMixin, APIView):
    parser_classes = [MultiPartParser, FormParser, JSONParser, FileUploadParser]

    def post(self, request, **kwargs):
        sizes = {}
        for name, file in request.FILES.items():
            with file:
                sizes[name] = len(file.read())
        Order.objects.create(reference=str(sizes))
        return Response({"sizes": sizes, "fields": sorted(request.POST)}, status=201)


class AuditedBase(APIView):
    """A base of the user's with a dispatch() and a finalize_response() of its own."""

    def dispatch(self, request, *args, **kwargs):
        response = super().dispatch(request, *args, **kwargs)
        response["X-Dispatched"] = str(int(response.get("X-Dispatched", 0)) + 1)
        return response

    def finalize_response(self, request, response, *args, **kwargs):
        HOOKS_RUN.append("finalized")
        return super().finalize_response(request, response, *args, **kwargs)

    def handle_exception(self, exc):
        HOOKS_RUN.append("handled")
        return super().handle_exception(exc)


class AuditedView(IdempotencyKeyMixin, AuditedBase):
    def post(self, request):
        return act(request.data)


class OrderSerializer(serializers.ModelSerializer):
    class Meta:
        model = Order
        fields = ("id", "reference")


class OwnOrders(BasePermission):
    def has_object_permission(self, request, view, obj):
        return obj.owner in ("", str(request.user))


class OrderViewSet(IdempotencyKeyMixin, viewsets.ModelViewSet):
    queryset = Order.objects.all()
    serializer_class = OrderSerializer
    permission_classes = [IsAuthenticated, OwnOrders]
    idempotency_methods = ("POST", "PATCH", "DELETE")


class HiddenOrderViewSet(OrderViewSet):
    """What is somebody else's is not forbidden but not there."""

    permission_classes = [IsAuthenticated]

    def get_queryset(self):
        return Order.objects.filter(owner__in=("", str(self.request.user)))


class LockingOrderViewSet(OrderViewSet):
    def get_queryset(self):
        return Order.objects.select_for_update()


class CountingView(OrderView):
    """Puts a wrapper around the statements, and takes it off where the guard is still open."""

    def initial(self, request, *args, **kwargs):
        self.wrapping = connection.execute_wrapper(lambda execute, *rest: execute(*rest))
        super().initial(request, *args, **kwargs)

    def post(self, request, **kwargs):
        self.wrapping.__enter__()
        return super().post(request, **kwargs)

    def finalize_response(self, request, response, *args, **kwargs):
        self.wrapping.__exit__(None, None, None)
        return super().finalize_response(request, response, *args, **kwargs)


@idempotent(key="key")
def inner_operation(key, amount):
    return amount


class NestingView(OrderView):
    def post(self, request, **kwargs):
        inner_operation("fixed", request.data["amount"])
        return Response(status=201)


class ImplicitCommitView(OrderView):
    def post(self, request, **kwargs):
        Order.objects.create(reference="before")
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS made_by_a_view (id int)")
        raise RuntimeError


class UnsavedScopeView(OrderView):
    def get_idempotency_scope(self, request):
        return Order(reference="not saved")


def plain_answer(data):
    answer = act(data)
    if isinstance(answer, Response):
        return JsonResponse(answer.data, status=answer.status_code)
    return answer


@idempotent_view
def plain(request):
    return plain_answer(request.POST)


@idempotent_view(methods=("POST",), allow_anonymous=True, operation="async order")
async def asynchronous(request):
    return await sync_to_async(plain_answer)(request.POST)


@idempotent_view
@api_view(["GET", "POST"])
def decorated_above(request):
    return act(request.data, request.user)


@api_view(["GET", "POST"])
@idempotent_view
def decorated_below(request):
    return act(request.data, request.user)
