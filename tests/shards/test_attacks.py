"""What was tried against the promises of shards, and once came through."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from threading import Thread

import pytest
from django.contrib.auth.models import Group, User
from django.db import connections, router, transaction

from idempotency.checks.shards import check_map
from idempotency.database import DatabaseNow
from idempotency.decorators import idempotent
from idempotency.exceptions import IdempotencyError
from idempotency.models import IdempotencyRecord, Shard, ShardSlot
from idempotency.shards import ShardAlias, ShardMap, Unroutable, adopting, freezing, shard_map, shard_of
from idempotency.shards.adopting import adopt
from idempotency.shards.claims import hold
from idempotency.shards.freezing import freeze, unfreeze
from idempotency.shards.stored import MapError
from tests.conftest import in_a_thread
from tests.processes.gates import STUCK
from tests.project.models import ExpressParcel, Order
from tests.settings import VENDOR
from tests.shards.conftest import BOTH, MOVED, TWO, orders

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
SECONDS = 5


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_an_alias_has_its_slot(user_on, copied):
    alias = shard_of(user_on("elsewhere"))
    assert (copied(alias), copied(alias).slot) == ("elsewhere", alias.slot)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_row_that_was_cached_can_be_read_again(user_on, copied):
    order = Order.objects.using(shard_of(user_on("elsewhere"))).create(reference="a")
    assert copied(order) == order


def running(state=IdempotencyRecord.State.RUNNING, until=timedelta(minutes=1)):
    """The record of an operation under a lease, in slot 6."""
    digests = {"key_digest": b"k" * 16, "scope": b"s" * 16, "principal": b"p" * 16, "fingerprint": b"f" * 17}
    now = DatabaseNow()
    times = {"created_at": now, "expires_at": now + until}
    return IdempotencyRecord.objects.using("default").create(**digests, **times, state=state, fence=1, slot=6)


def frozen():
    rows = {alias: ShardSlot.objects.using(alias).filter(frozen_at__isnull=False) for alias in BOTH}
    return {alias: sorted(slots.values_list("slot", flat=True)) for alias, slots in rows.items()}


@pytest.mark.skipif(VENDOR == "sqlite", reason="its one writer is the operation itself")
def test_who_was_given_up_for_unknown_cannot_complete_in_a_frozen_slot(shards, user_on):
    def freeze_what_is_unknown():
        rows = IdempotencyRecord.objects.using("default")
        rows.update(state=IdempotencyRecord.State.UNKNOWN, expires_at=DatabaseNow() - timedelta(seconds=1))
        freeze([6], shards, seconds=SECONDS)

    @idempotent(key="key", scope=lambda key: user_on(6), mode="lease")
    def place(key):
        Order.objects.create(reference=key)
        in_a_thread(freeze_what_is_unknown)

    with pytest.raises(IdempotencyError):
        place("a")
    assert orders()["default"] == []


def test_freezing_does_not_return_well_when_somebody_unfreezes_meanwhile(shards):
    running()

    def unfreeze_and_end(text):
        unfreeze([6], shards)
        IdempotencyRecord.objects.using("default").all().delete()

    with pytest.raises(MapError, match="let in"):
        freeze([6], shards, seconds=SECONDS, on_wait=unfreeze_and_end)


def test_a_slot_where_a_lease_is_at_work_is_not_moved(shards, settings):
    freeze([6, 7], shards, seconds=SECONDS)
    # As if the freeze had been killed while it waited.
    running()
    settings.IDEMPOTENCY_SHARDS = MOVED
    with pytest.raises(MapError, match="at work"):
        adopt(shard_map())


@pytest.mark.skipif(VENDOR == "sqlite", reason="its one writer waits for its turn")
def test_a_slot_is_not_let_in_while_another_operator_moves_it(shards, settings, monkeypatch):
    freeze([6, 7], shards, seconds=SECONDS)
    settings.IDEMPOTENCY_SHARDS = MOVED
    threads, refusals, write = [], [], adopting.write

    def unfreeze_too():
        try:
            unfreeze([6, 7], shards)
        except MapError as error:
            refusals.append(str(error))
        finally:
            connections.close_all()

    def write_while_another_unfreezes(*args):
        if not threads:
            threads.append(Thread(target=unfreeze_too))
            threads[0].start()
            threads[0].join(1)
        write(*args)

    monkeypatch.setattr(adopting, "write", write_while_another_unfreezes)
    adopt(shard_map())
    threads[0].join(STUCK)
    assert "do not have the map" in refusals[0]
    assert frozen() == {"default": [6, 7], "elsewhere": [6, 7]}
    assert set(ShardSlot.objects.using("default").filter(slot__in=[6, 7]).values_list("owner")) == {
        ("elsewhere",)
    }


def test_a_slot_that_is_half_let_in_is_not_served(shards, monkeypatch):
    """Unfreezing is broken off between the databases."""
    freeze([6, 9], shards, seconds=SECONDS)
    calls, changing = [], freezing.changing

    def broken_off(shards):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return changing(shards)

    monkeypatch.setattr(freezing, "changing", broken_off)
    with pytest.raises(KeyboardInterrupt):
        unfreeze([6, 9], shards)
    assert frozen() == {"default": [6], "elsewhere": [9]}


@pytest.mark.skipif(VENDOR == "sqlite", reason="its one writer waits for its turn")
def test_letting_in_many_slots_does_not_wait_for_who_is_at_work_in_others(shards, settings):
    for alias in BOTH:
        Shard.objects.using(alias).all().delete()
        ShardSlot.objects.using(alias).all().delete()
    settings.IDEMPOTENCY_SHARDS = {"VERSION": 1, "SLOTS": 4096, "MAP": {"default": "0-4095"}}
    adopt(shard_map())
    many = range(3000)
    ShardSlot.objects.using("default").filter(slot__in=many).update(frozen_at=DatabaseNow())

    def unfreeze_impatiently():
        if VENDOR != "postgresql":
            with connections["default"].cursor() as cursor:
                # READ COMMITTED passes over what does not match.
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("SET SESSION innodb_lock_wait_timeout = 2")
        unfreeze(many, shard_map())

    with transaction.atomic(using="default"):
        hold(ShardAlias("default", 4000))
        in_a_thread(unfreeze_impatiently)
    assert frozen()["default"] == []


def test_a_child_of_a_model_on_shards_is_routed_with_it(shards, settings, user_on):
    settings.IDEMPOTENCY_SHARDS = {**TWO, "VERSION": 2, "MODELS": ["project.ParkingParcel"]}
    adopt(shard_map())
    with pytest.raises(Unroutable):
        ExpressParcel.objects.create(reference="a")
    idempotent(key="key", scope=lambda key: user_on("elsewhere"))(
        lambda key: ExpressParcel.objects.create(reference=key).pk
    )("a")
    assert ExpressParcel.objects.using("elsewhere").get().reference == "a"


def test_links_of_many_to_many_are_routed_with_the_model_that_has_them():
    shards = shard_map_of(["auth.User"])
    assert shards.covers(User.groups.through)
    assert not shards.covers(Group)


def test_models_that_do_not_exist_are_told_of(shards, settings):
    settings.IDEMPOTENCY_SHARDS = {**TWO, "MODELS": ["project.Ordr", "projct", "project.order", "auth"]}
    found = [error for error in check_map() if error.id == "idempotency.E034"]
    assert [error.msg.partition(":")[2] for error in found] == [" 'projct', 'project.ordr'."]


def test_who_points_to_a_row_that_is_not_on_shards_is_told_to_give_its_id(shards):
    with pytest.raises(Unroutable, match="give the User's id"):
        router.db_for_write(Order, instance=User(pk=1))
    with pytest.raises(Unroutable) as refusal:
        Order(reference="a").save()
    assert "id and no object" not in str(refusal.value)


def shard_map_of(models):
    return ShardMap(1, ("default",), frozenset(label.lower() for label in models))
