"""Where things go: record and business rows always to the same database."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db import router
from django.urls import path
from rest_framework.serializers import ModelSerializer
from rest_framework.viewsets import ModelViewSet

from idempotency import outbox
from idempotency.consumers import idempotent_consumer
from idempotency.decorators import idempotent
from idempotency.exceptions import DuplicateToken
from idempotency.locks import lock
from idempotency.mixins import IdempotencyKeyMixin, IdempotencyTokenMixin
from idempotency.models import IdempotencyRecord, IdempotencyToken, OutboxMessage, UniqueId
from idempotency.shards import Unroutable, shard_of
from idempotency.tokens import tokens
from idempotency.unique_ids import unique_ids
from tests.conftest import Caller, urlconf
from tests.project.models import Order, Product
from tests.shards.conftest import BOTH, create, orders

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
anywhere = pytest.mark.parametrize("alias", BOTH)


class OrderSerializer(ModelSerializer):
    class Meta:
        model = Order
        fields = ("reference", "owner")


class OrderViewSet(IdempotencyKeyMixin, ModelViewSet):
    queryset = Order.objects.none()
    serializer_class = OrderSerializer


class OrderOfTenantViewSet(OrderViewSet):
    def get_idempotency_shard_key(self, request):
        return f"tenant {request.data['owner']}"


class OrderOfTokenViewSet(IdempotencyTokenMixin, OrderViewSet):
    pass


@pytest.fixture
def routes(shards, settings):
    views = {"orders": OrderViewSet, "tenants": OrderOfTenantViewSet, "tokens": OrderOfTokenViewSet}
    routes = [path(f"{name}/", view.as_view({"post": "create"})) for name, view in views.items()]
    settings.ROOT_URLCONF = urlconf(*routes)


@pytest.fixture
def caller_on(routes, shards):
    """A user who is on that database, signed in."""

    def caller_on(alias):
        for number in range(100):
            user = User.objects.create(username=f"{alias}-{number}")
            if shard_of(user) == alias:
                return user, Caller(user.username)
        raise LookupError(alias)

    return caller_on


def records():
    return {alias: IdempotencyRecord.objects.using(alias).count() for alias in BOTH}


def one_on(alias, counts):
    return counts == {each: int(each == alias) for each in BOTH}


@anywhere
def test_a_view_has_record_and_row_on_the_callers_shard(caller_on, alias):
    user, caller = caller_on(alias)
    for _ in range(2):
        assert caller.once("/orders/", {"reference": "a"}).status_code == 201
    assert one_on(alias, records())
    assert orders() == {each: ["a"] if each == alias else [] for each in BOTH}
    record = IdempotencyRecord.objects.using(alias).get()
    assert record.slot == shard_of(user).slot


@anywhere
def test_a_views_shard_key_may_be_another_than_whose_key_it_is(caller_on, alias):
    __, caller = caller_on(BOTH[alias == BOTH[0]])
    tenant = next(str(n) for n in range(100) if shard_of(f"tenant {n}") == alias)
    assert caller.once("/tenants/", {"reference": "a", "owner": tenant}).status_code == 201
    assert one_on(alias, records())
    assert orders()[alias] == ["a"]


@anywhere
def test_tokens_are_where_their_holder_is_and_go_with_the_work(caller_on, alias):
    user, caller = caller_on(alias)
    token = tokens().issue(user).token
    assert IdempotencyToken.objects.using(alias).get().slot == shard_of(user).slot
    answers = [caller.spend("/tokens/", token, {"reference": "a"}, headers={"Idempotency-Key": "k"})]
    answers.append(caller.spend("/tokens/", token, {"reference": "a"}, headers={"Idempotency-Key": "k"}))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert orders()[alias] == ["a"]
    with pytest.raises(DuplicateToken), tokens().consume(token, user):
        pass


@anywhere
def test_a_function_goes_where_its_scope_is_or_its_shard_key(user_on, alias):
    user = user_on(alias)
    by_scope = idempotent(key="key", scope=lambda key: user)(
        lambda key: Order.objects.create(reference=key).pk
    )
    by_shard_key = idempotent(key="key", operation="other", shard_key=lambda key: user)(
        lambda key: Order.objects.create(reference=key).pk
    )
    for function in (by_scope, by_shard_key):
        assert function("a") == function("a")
    assert orders()[alias] == ["a", "a"]
    assert records()[alias] == 2


def test_a_function_without_either_is_refused(shards):
    with pytest.raises(Unroutable, match="pass shard_key= or using="):
        idempotent(key="key")(lambda key: None)("a")


@anywhere
def test_unique_ids_are_with_the_work(user_on, alias):
    user = user_on(alias)
    handled = idempotent(guard=unique_ids(), key="key", shard_key=lambda key: user)(create)
    assert handled("a")
    assert handled("a") is None
    assert orders()[alias] == ["a"]
    assert UniqueId.objects.using(alias).get().slot == shard_of(user).slot
    ids = unique_ids(using=shard_of(user))
    assert ids.add("b")
    assert not ids.add("b")
    assert "b" in ids
    ids.discard("b")
    assert "b" not in ids


def test_unique_ids_and_locks_that_are_nowhere_are_refused(shards):
    with pytest.raises(Unroutable, match="set LOCATION"):
        unique_ids().add("a")
    with pytest.raises(Unroutable, match="set LOCATION"):
        lock("a").__enter__()


@anywhere
@pytest.mark.parametrize("delivery", ["transactional", "at_most_once", "at_least_once"])
def test_consumers_go_where_their_shard_key_is(user_on, alias, delivery):
    def handle(event):
        Order.objects.create(reference=event["id"])
        if delivery == "transactional":
            outbox.send({"done": event["id"]}, routing_key="done")

    consume = idempotent_consumer(
        f"shards.{delivery}.{alias}",
        key=lambda event: event["id"],
        shard_key=lambda event: event["user"],
        delivery=delivery,
    )(handle)
    for _ in range(2):
        consume({"id": "a", "user": user_on(alias)})
    assert orders()[alias] == ["a"]
    assert one_on(alias, records())
    assert OutboxMessage.objects.using(alias).count() == (delivery == "transactional")


def test_outside_of_an_operation_nothing_is_guessed(shards):
    with pytest.raises(Unroutable, match=r"Order.objects.using\(shard_of"):
        Order.objects.create(reference="a")
    with pytest.raises(Unroutable):
        list(Order.objects.all())
    assert User.objects.count() == 0


def test_what_a_row_points_to_is_read_where_that_is(user_on):
    """A user is on no shard, and a shard may have a table of users all the same."""
    user = User.objects.using("default").create(username="alice")
    order = Order.objects.using(shard_of(user_on("elsewhere"))).create(reference="a")
    assert router.db_for_read(User, instance=order) == "default" == user._state.db
    assert router.db_for_read(ContentType, instance=order) == "elsewhere"


def test_a_row_is_saved_where_it_is(user_on):
    alias = shard_of(user_on("elsewhere"))
    order = Order.objects.using(alias).create(reference="a")
    order.reference = "b"
    order.save()
    order.refresh_from_db()
    assert orders() == {"default": [], "elsewhere": ["b"]}


def test_a_row_of_one_shard_cannot_be_changed_by_an_operation_on_another(user_on):
    product = Product.objects.using(shard_of(user_on("elsewhere"))).create(name="apple", stock=5)

    @idempotent(key="key", scope=lambda key: user_on("default"))
    def deduct(key):
        Order.objects.create(reference=key)
        product.name = "pear"
        product.save()

    with pytest.raises(Unroutable, match="cannot commit together"):
        deduct("a")
    assert orders() == {"default": [], "elsewhere": []}
    assert records() == {"default": 0, "elsewhere": 0}


def test_a_projects_own_routing_goes_past_the_map(shards):
    @idempotent(key="key", using="elsewhere")
    def place(key):
        Order.objects.create(reference=key)

    place("a")
    assert orders() == {"default": [], "elsewhere": ["a"]}
    assert IdempotencyRecord.objects.using("elsewhere").get().slot is None
