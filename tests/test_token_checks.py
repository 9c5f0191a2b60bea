"""What `manage.py check` says about tokens before a request does."""

from datetime import timedelta

import pytest
from django.core import mail
from django.core.checks import run_checks
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from rest_framework.viewsets import ModelViewSet

from idempotency import redis
from idempotency.decorators import require_idempotency_token
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.views import TokenView
from tests import services
from tests.conftest import urlconf
from tests.project.models import Order
from tests.test_checks import Throttle

REDIS = "idempotency.tokens.redis.RedisTokenStore"
LOCMEM = "idempotency.tokens.locmem.LocMemTokenStore"


class PaymentViewSet(IdempotencyTokenMixin, ModelViewSet):
    queryset = Order.objects.all()
    idempotency_token_purpose = "payment"


def viewset(**attributes):
    made = type("MadeViewSet", (PaymentViewSet,), attributes)
    return made.as_view({"post": "create"})


def messages():
    return run_checks(tags=["idempotency"])


def test_views_that_take_tokens_have_no_complaints(found):
    assert found(viewset(), TokenView.as_view()) == set()


@pytest.mark.parametrize(
    "options",
    [
        {"LIFETIME": 60},
        {"LIMIT": "many"},
        {"COLOUR": "green"},
        {"BACKEND": "tests.project.models.Order"},
        {"LOCATION": ["default"]},
        "redis://127.0.0.1",
    ],
)
def test_a_setting_that_cannot_work_is_told(found, settings, options):
    settings.IDEMPOTENCY_TOKENS = {"default": options}
    assert found() == {"E010"}


def test_a_setting_that_is_no_dict_is_told(found, settings):
    settings.IDEMPOTENCY_TOKENS = None
    assert found() == {"E010"}


@pytest.mark.parametrize("setting", ["IDEMPOTENCY_HEADER", "IDEMPOTENCY_TOKEN_HEADER"])
@pytest.mark.parametrize("name", [None, 5, "", "X Y", "X_Y"])
def test_a_header_that_no_request_can_have_is_told(found, settings, setting, name):
    setattr(settings, setting, name)
    assert found() == {"E014"}


def test_records_that_are_kept_shorter_than_tokens_live_are_told(found):
    both = type("Both", (IdempotencyKeyMixin, PaymentViewSet), {})
    assert found(both.as_view({"post": "create"})) == set()
    short = both.as_view({"post": "create"}, idempotency_retention=timedelta(minutes=59))
    assert found(short) == {"W013"}


@pytest.mark.parametrize(
    "options",
    [
        {"LOCATION": "nowhere"},
        {"BACKEND": REDIS, "LOCATION": "default"},
        {"BACKEND": REDIS, "LOCATION": "nowhere"},
    ],
)
def test_a_medium_that_cannot_keep_tokens_is_told(found, settings, options):
    settings.IDEMPOTENCY_TOKENS = {"default": options}
    assert found() == {"E011"}


def test_the_memory_of_one_process_is_refused_outside_of_tests(found, settings, monkeypatch):
    settings.IDEMPOTENCY_TOKENS = {"default": {"BACKEND": LOCMEM}}
    assert found() == set()
    monkeypatch.delattr(mail, "outbox")
    assert found() == {"E011"}


def test_django_s_own_redis_cache_is_told_to_be_another(found, settings):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": services.redis.url}
    }
    settings.IDEMPOTENCY_TOKENS = {"default": {"BACKEND": REDIS}}
    settings.IDEMPOTENCY_UNIQUE_IDS = settings.IDEMPOTENCY_LOCKS = {}
    assert found() == {"E011"}
    assert "django_redis.cache.RedisCache" in messages()[0].msg


def test_failing_open_is_told(found, settings):
    settings.IDEMPOTENCY_TOKENS = {"default": {"FAIL_OPEN": True}}
    assert found() == {"W009"}


def test_a_redis_without_a_timeout_is_told(found, settings, monkeypatch):
    monkeypatch.setattr(redis, "library_timeout", lambda: None)
    assert found() == set()  # the tests' own settings have one
    caches = {**settings.CACHES["redis"], "OPTIONS": {}}
    settings.CACHES = {**settings.CACHES, "redis": caches}
    settings.IDEMPOTENCY_TOKENS = {"default": {"BACKEND": REDIS, "LOCATION": "redis"}}
    assert found() == {"W010"}


@pytest.mark.parametrize(
    "attributes",
    [
        {"idempotency_token_on_failure": "keep"},
        {"idempotency_token_purpose": "x" * 101},
        {"idempotency_token_purpose": None},
        {"idempotency_token_alias": "nowhere"},
    ],
)
def test_a_view_whose_options_cannot_work_is_told(found, attributes):
    assert found(viewset(**attributes)) == {"E012"}


def test_an_option_given_to_as_view_counts(found):
    view = PaymentViewSet.as_view({"post": "create"}, idempotency_token_on_failure="keep")
    assert found(view) == {"E012"}


def test_views_that_would_take_each_others_tokens_are_told(found):
    general = viewset(idempotency_token_purpose="")
    assert found(general, viewset()) == set()
    assert found(general, require_idempotency_token(lambda request: HttpResponse())) == {"W008"}


def test_key_options_are_no_concern_of_a_view_that_takes_tokens(found):
    assert found(viewset(idempotency_mode="lease", idempotency_allow_anonymous=True)) == set()


def test_tokens_in_another_database_under_its_atomic_requests_are_told(found, settings, monkeypatch):
    settings.IDEMPOTENCY_TOKENS = {"default": {"LOCATION": "default"}}
    elsewhere = {"get_idempotency_using": lambda self, request: "other"}
    assert found(viewset(**elsewhere)) == set()
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    assert found(viewset()) == set()
    assert found(viewset(**elsewhere)) == {"E013"}
    free = method_decorator(transaction.non_atomic_requests, name="dispatch")(
        type("FreeViewSet", (PaymentViewSet,), elsewhere)
    )
    assert found(free.as_view({"post": "create"})) == set()


def test_issuing_without_a_throttle_is_told_on_deployment(found):
    assert found(TokenView.as_view(), include_deployment_checks=True) == {"W011"}
    throttled = TokenView.as_view(throttle_classes=[Throttle])
    assert found(throttled, include_deployment_checks=True) == set()


def test_a_redis_that_evicts_is_told_on_deployment(found, monkeypatch):
    assert found(include_deployment_checks=True) == set()
    monkeypatch.setattr(redis, "eviction_policies", lambda location: {"allkeys-lru"})
    assert found() == set()
    assert found(include_deployment_checks=True) == {"W012"}


@pytest.mark.parametrize("location", ["redis", "redis-cluster"])
def test_the_eviction_policy_is_read_from_every_node(location):
    if lacking := services.missing(location):
        assert not services.CI, lacking
        pytest.skip(lacking)
    # Without a limit to their memory they evict nothing, whatever they are told.
    assert redis.eviction_policies(location) == set()


def test_everything_at_once_reads_well(settings):
    settings.IDEMPOTENCY_TOKENS = {"default": {"LIFETIME": timedelta(0)}}
    settings.ROOT_URLCONF = urlconf(path("", include([path("", viewset())])))
    assert [message.msg for message in messages()] == [
        "IDEMPOTENCY_TOKENS['default']['LIFETIME'] must be a timedelta above 0, at most 100 years, not "
        "datetime.timedelta(0)."
    ]
