from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.core.checks import run_checks
from django.db import connection, connections, transaction
from django.http import HttpResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.decorators import api_view, throttle_classes
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.throttling import UserRateThrottle
from rest_framework.viewsets import ModelViewSet, ReadOnlyModelViewSet

from idempotency.checks.urlconf import guarded_views
from idempotency.decorators import idempotent_view
from idempotency.mixins import IdempotencyKeyMixin
from idempotency.models import IdempotencyRecord
from idempotency.steps import database_step, operation
from tests.conftest import urlconf
from tests.project.models import Order
from tests.settings import VENDOR


class Throttle(UserRateThrottle):
    rate = "10/s"


class OrderViewSet(IdempotencyKeyMixin, ModelViewSet):
    queryset = Order.objects.all()
    throttle_classes = [Throttle]


def viewset(**attributes):
    made = type("MadeViewSet", (OrderViewSet,), attributes)
    return made.as_view({"post": "create"})


def refuse_nothing(request):
    return HttpResponse()


def deploy(found, view):
    return found(view, include_deployment_checks=True)


def test_a_sound_project_has_no_complaints(found):
    assert found(viewset(), idempotent_view(refuse_nothing)) == set()


def test_a_project_without_urls_is_checked(found, settings):
    found()
    settings.ROOT_URLCONF = None
    assert run_checks(tags=["idempotency"]) == []


def test_every_kind_of_guarded_view_is_found(settings):
    @method_decorator(idempotent_view, name="dispatch")
    class ByDispatch(View):
        def post(self, request):
            return HttpResponse()

    class ByMethod(View):
        @method_decorator(idempotent_view)
        def post(self, request):
            return HttpResponse()

    @idempotent_view
    def function(request):
        return HttpResponse()

    @idempotent_view
    @api_view(["POST"])
    def above(request):
        return Response()

    @api_view(["POST"])
    @idempotent_view
    def below(request):
        return Response()

    router = SimpleRouter()
    router.register("orders", OrderViewSet)
    views = [ByDispatch.as_view(), ByMethod.as_view(), function, above, below]
    patterns = [path(f"{number}/", view) for number, view in enumerate(views)]
    settings.ROOT_URLCONF = urlconf(*patterns, path("", include(router.urls)))
    names = [str(view).rpartition(".")[2] for view in guarded_views()]
    assert names == ["ByDispatch", "ByMethod", "function", "above", "below", "OrderViewSet"]


def test_views_that_guard_nothing_are_let_be(found):
    class Reading(IdempotencyKeyMixin, ReadOnlyModelViewSet):
        queryset = Order.objects.all()
        idempotency_mode = "nonsense"

    assert found(refuse_nothing, Reading.as_view({"get": "list"})) == set()


def test_a_message_names_the_view_and_what_to_do(found):
    found(viewset(idempotency_retention=timedelta(0)))
    (message,) = run_checks(tags=["idempotency"])
    assert str(message).startswith("tests.test_checks.MadeViewSet: (idempotency.E005)")
    assert "timedelta(hours=24)" in message.hint


def test_an_argument_of_as_view_counts(found):
    assert found(OrderViewSet.as_view({"post": "create"}, idempotency_mode="nonsense")) == {"E007"}


@pytest.mark.parametrize(
    ("attributes", "ids"),
    [
        ({"idempotency_retention": timedelta(0)}, {"E005"}),
        ({"idempotency_retention": -timedelta(1)}, {"E005"}),
        ({"idempotency_retention": 3600}, {"E005"}),
        ({"idempotency_retention": timedelta.max}, {"E005"}),
        ({"idempotency_retention": timedelta(days=365)}, set()),
        ({"idempotency_wait": 5}, {"E006"}),
        ({"idempotency_wait": -timedelta(1)}, {"E006"}),
        ({"idempotency_wait": timedelta(seconds=11)}, {"W004"}),
        ({"idempotency_wait": timedelta(seconds=10)}, set()),
        ({"idempotency_mode": "leas"}, {"E007"}),
        ({"idempotency_methods": "POST"}, {"E008"}),
        ({"idempotency_methods": ["post"]}, {"E008"}),
        ({"idempotency_methods": ["POST", 7]}, {"E008"}),
        ({"idempotency_methods": None}, {"E008"}),
        ({"idempotency_methods": ("GET", "POST")}, {"W005"}),
        ({"idempotency_methods": ("PUT", "POST", "DELETE")}, set()),
        ({"idempotency_allow_anonymous": True}, {"W002"}),
    ],
)
def test_attributes_that_cannot_work_are_told(found, attributes, ids):
    assert found(viewset(**attributes)) == ids


@pytest.mark.parametrize(
    ("name", "value", "ids"),
    [
        ("IDEMPOTENCY_RETENTION", timedelta(0), {"E005"}),
        ("IDEMPOTENCY_RETENTION", 86400, {"E005"}),
        ("IDEMPOTENCY_WAIT", "1", {"E006"}),
        ("IDEMPOTENCY_WAIT", timedelta(minutes=1), {"W004"}),
        ("IDEMPOTENCY_DATABASE", "nowhere", {"E001"}),
    ],
)
def test_settings_that_cannot_work_are_told(found, settings, name, value, ids):
    setattr(settings, name, value)
    assert found() == ids


def test_anonymous_callers_with_a_scope_of_their_own_are_fine(found):
    def session(self, request):
        return "session", request.session.session_key

    assert found(viewset(idempotency_allow_anonymous=True, get_idempotency_scope=session)) == set()
    assert found(idempotent_view(allow_anonymous=True)(refuse_nothing)) == {"W002"}


def test_a_durable_block_in_a_view_is_told(found):
    class Durable(OrderViewSet):
        def perform_create(self, serializer):
            with transaction.atomic(using="default", durable=True):
                serializer.save()

    @idempotent_view
    @transaction.atomic(durable=True)
    def durable(request):
        return HttpResponse()

    @idempotent_view
    @api_view(["POST"])
    def durable_api(request):
        with transaction.atomic("default", True, True):
            return Response()

    for view in (Durable.as_view({"post": "create"}), durable, durable_api):
        assert found(view) == {"W003"}
    (message,) = run_checks(tags=["idempotency"])
    assert "tests.test_checks, line" in message.msg


def test_blocks_that_are_not_durable_are_fine(found):
    class Savepoints(OrderViewSet):
        def perform_create(self, serializer):
            with transaction.atomic(durable=False), transaction.atomic():
                serializer.save()

    assert found(Savepoints.as_view({"post": "create"})) == set()


def test_a_view_without_source_is_checked(found):
    namespace = {"ViewSet": OrderViewSet}
    exec("class Sourceless(ViewSet): idempotency_mode = 'nonsense'", namespace)
    exec("def sourceless(request): atomic(durable=True)", namespace)
    sourceless = idempotent_view(namespace["sourceless"])
    assert found(namespace["Sourceless"].as_view({"post": "create"}), sourceless) == {"E007"}


def test_waiting_under_atomic_requests_is_told(found, monkeypatch):
    waiting = viewset(idempotency_wait=timedelta(seconds=1))
    assert found(waiting) == set()
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    assert found(viewset()) == set()
    assert found(waiting) == {"W006"}
    assert found(transaction.non_atomic_requests(waiting)) == set()


def test_waiting_by_setting_under_atomic_requests_is_told(found, settings, monkeypatch):
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    settings.IDEMPOTENCY_WAIT = timedelta(seconds=1)
    assert found(viewset()) == {"W006"}
    assert found(viewset(idempotency_wait=timedelta(0))) == set()


def test_a_view_without_throttle_is_told_before_deployment(found):
    unbounded = viewset(throttle_classes=[])
    assert found(unbounded) == set()
    assert deploy(found, unbounded) == {"W007"}
    (message,) = run_checks(tags=["idempotency"], include_deployment_checks=True)
    assert "864,000 records with bodies of up to 844 GiB" in message.msg


def test_a_throttle_counts_only_with_a_rate(found):
    @api_view(["POST"])
    @throttle_classes([Throttle])
    @idempotent_view
    def throttled(request):
        return Response()

    class WithoutRate(UserRateThrottle):
        rate = None

    assert deploy(found, viewset()) == set()
    assert deploy(found, throttled) == set()
    assert deploy(found, viewset(throttle_classes=[WithoutRate])) == {"W007"}
    assert deploy(found, viewset(throttle_classes=[AllowAny])) == set()


class OrdersElsewhere:
    def db_for_write(self, model, **hints):
        return "default" if model is Order else "records"


def test_a_record_in_another_database_than_the_orders_is_told(found, settings, monkeypatch):
    settings.DATABASE_ROUTERS = [OrdersElsewhere()]
    monkeypatch.setitem(connections.settings, "records", connections.settings["default"])
    assert found(viewset()) == {"E003"}
    assert found(viewset(get_idempotency_using=lambda self, request: "default")) == set()
    settings.IDEMPOTENCY_DATABASE = "default"
    assert found(viewset()) == set()


def test_a_serializers_model_tells_where_a_view_writes(found, settings, monkeypatch):
    settings.DATABASE_ROUTERS = [OrdersElsewhere()]
    monkeypatch.setitem(connections.settings, "records", connections.settings["default"])
    serializer = SimpleNamespace(Meta=SimpleNamespace(model=Order))
    assert found(viewset(queryset=None, serializer_class=serializer)) == {"E003"}


def test_an_unsupported_database_is_told_by_name(found, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "oracle")
    monkeypatch.setattr(connections["default"], "display_name", "Oracle")
    assert found() == {"E002"}
    (message,) = run_checks(tags=["idempotency"])
    assert "cannot be kept on Oracle" in message.msg


@pytest.mark.parametrize(("mode", "ids"), [(None, {"W001"}), ("DEFERRED", {"W001"}), ("immediate", set())])
def test_sqlite_must_begin_with_the_write_lock(found, monkeypatch, mode, ids):
    monkeypatch.setattr(connections["default"], "vendor", "sqlite")
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"transaction_mode": mode})
    assert found() == ids


def set_engine(model, name):
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {model._meta.db_table} ENGINE = {name}")


@pytest.mark.skipif(VENDOR != "mariadb", reason="only MariaDB has several engines")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("model", [IdempotencyRecord, Order])
def test_a_table_without_transactions_is_told_when_the_database_is_asked(found, model):
    view = viewset()
    assert found(view, databases=["default"]) == set()
    set_engine(model, "MyISAM")
    try:
        assert found(view) == set()
        assert found(view, databases=["default"]) == {"E004"}
    finally:
        set_engine(model, "InnoDB")


@pytest.mark.django_db
def test_a_database_without_the_tables_yet_is_no_complaint(found, monkeypatch):
    monkeypatch.setattr(Order._meta, "db_table", "not_there_yet")
    assert found(viewset(), databases=["default"]) == set()


@operation("test-checks", steps=[database_step()(lambda: None)])
def operate(): ...


@pytest.mark.parametrize(
    ("attributes", "ids"),
    [
        ({"idempotency_mode": "lease"}, set()),
        ({"idempotency_mode": "lease", "idempotency_rerun": True}, set()),
        ({"idempotency_mode": "lease", "idempotency_steps": operate}, set()),
        ({"idempotency_mode": "lease", "idempotency_lease": timedelta(seconds=1)}, set()),
        ({"idempotency_mode": "lease", "idempotency_lease": timedelta(0)}, {"E007"}),
        ({"idempotency_mode": "lease", "idempotency_steps": print}, {"E007"}),
        ({"idempotency_mode": "lease", "idempotency_steps": operate, "idempotency_rerun": True}, {"E007"}),
        ({"idempotency_steps": operate}, {"E007"}),
        ({"idempotency_rerun": True}, {"E007"}),
        ({"idempotency_lease": timedelta(seconds=9)}, {"E007"}),
    ],
)
def test_what_belongs_to_a_mode(found, attributes, ids):
    assert found(viewset(**attributes)) == ids


def test_a_lease_within_a_transaction_of_the_request_is_an_error(found, monkeypatch):
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)

    @method_decorator(transaction.non_atomic_requests, name="dispatch")
    class Free(OrderViewSet):
        idempotency_mode = "lease"

    assert found(viewset(idempotency_mode="lease", idempotency_wait=timedelta(seconds=1))) == {"E025"}
    assert found(Free.as_view({"post": "create"})) == set()


@pytest.mark.parametrize("value", [30, timedelta(0), timedelta.max])
def test_a_setting_that_is_no_length_of_a_lease(found, settings, value):
    settings.IDEMPOTENCY_LEASE = value
    assert found() == {"E026"}
