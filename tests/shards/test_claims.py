"""What a claim asks of its shard, and what freezing waits for."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from threading import Event, Thread

import pytest
from django.db import connections, transaction
from django.db.models import F

from idempotency.consumers import idempotent_consumer
from idempotency.database import DatabaseNow
from idempotency.decorators import idempotent
from idempotency.exceptions import OperationInProgress, SlotFrozen, WrongShardMap
from idempotency.models import IdempotencyRecord, Shard, ShardSlot
from idempotency.shards import require_same_map, shard_map, shard_of
from idempotency.shards.adopting import adopt, retire
from idempotency.shards.claims import hold
from idempotency.shards.freezing import freeze, unfreeze
from idempotency.shards.stored import MapError, known
from idempotency.tokens import tokens
from idempotency.unique_ids import unique_ids
from tests.conftest import in_a_thread
from tests.processes.gates import STUCK
from tests.project.models import Order
from tests.settings import VENDOR
from tests.shards.conftest import MOVED, TWO, create, orders

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
SECONDS = 5


@pytest.fixture
def place(user_on):
    """An operation of slot 6, on "default"."""

    def place(key="a", work=lambda: None, **options):
        @idempotent(key="key", operation="place", scope=lambda key: user_on(6), **options)
        def run(key):
            pk = Order.objects.create(reference=key).pk
            work()
            return pk

        return run(key)

    return place


def test_a_frozen_slot_is_refused_and_others_are_not(shards, user_on, place):
    freeze([6], shards, seconds=SECONDS)
    with pytest.raises(SlotFrozen) as refusal:
        place()
    assert (refusal.value.code, refusal.value.retry_after) == ("conflict", 5)
    assert not IdempotencyRecord.objects.using("default").exists()
    idempotent(key="key", scope=lambda key: user_on(5))(create)("b")
    assert orders()["default"] == ["b"]
    unfreeze([6], shards)
    place()
    assert orders()["default"] == ["a", "b"]


@pytest.mark.parametrize("options", [{}, {"mode": "lease", "rerun": True}])
def test_what_was_done_is_answered_from_a_frozen_slot(shards, place, options):
    answer = place(**options)
    freeze([6], shards, seconds=SECONDS)
    assert place(**options) == answer


def test_a_lease_cannot_be_taken_in_a_frozen_slot(shards, place):
    freeze([6], shards, seconds=SECONDS)
    with pytest.raises(SlotFrozen):
        place(mode="lease")
    assert not IdempotencyRecord.objects.using("default").exists()


def test_tokens_and_ids_are_not_written_in_a_frozen_slot(shards, user_on):
    user = user_on(6)
    token = tokens().issue(user).token
    freeze([6], shards, seconds=SECONDS)
    with pytest.raises(SlotFrozen):
        tokens().issue(user)
    with pytest.raises(SlotFrozen), tokens().consume(token, user):
        pass
    with pytest.raises(SlotFrozen):
        unique_ids(using=shard_of(user)).add("a")
    with pytest.raises(SlotFrozen), unique_ids().once("a", using=shard_of(user)):
        pass
    unfreeze([6], shards)
    with tokens().consume(token, user):
        pass


@pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite's one writer waits for its turn")
def test_freezing_waits_for_who_is_at_work_and_refuses_who_comes(shards, place):
    at_work, finish, frozen = Event(), Event(), Event()

    def work():
        at_work.set()
        assert finish.wait(STUCK)

    def run_freeze():
        freeze([6], shards, seconds=STUCK)
        frozen.set()
        connections.close_all()

    def run_work():
        place("a", work)
        connections.close_all()

    threads = [Thread(target=run_work), Thread(target=run_freeze)]
    threads[0].start()
    assert at_work.wait(STUCK)
    threads[1].start()
    try:
        # Once the freeze waits, whoever comes is refused at once.
        numbers = count()
        while refused_in_a_thread(lambda: place(f"b{next(numbers)}")) is None:
            assert next(numbers) < 10_000, "nobody is refused"
        assert in_a_thread(lambda: known("default")).frozen == set()
        assert not frozen.is_set()
    finally:
        finish.set()
        for thread in threads:
            thread.join(STUCK)
    assert frozen.is_set()
    assert "a" in orders()["default"]


def refused_in_a_thread(call):
    def run():
        try:
            call()
        except SlotFrozen as error:
            return error

    return in_a_thread(run)


def test_a_token_is_not_taken_from_a_frozen_slot_for_work_on_another_shard(shards, user_on):
    user = user_on(6)
    token = tokens().issue(user).token
    freeze([6], shards, seconds=SECONDS)
    with pytest.raises(SlotFrozen), tokens().consume(token, user, using=shard_of(user_on("elsewhere"))):
        pass
    unfreeze([6], shards)
    with tokens().consume(token, user, using=shard_of(user_on("elsewhere"))):
        pass


@pytest.mark.parametrize("delivery", ["transactional", "at_most_once", "at_least_once"])
def test_a_message_for_a_frozen_slot_waits(shards, user_on, delivery):
    name = f"shards.frozen.{delivery}"
    routed = {"key": "id", "shard_key": lambda id: user_on(6), "delivery": delivery}
    consume = idempotent_consumer(name, **routed)(lambda id: create(id) and None)
    freeze([6], shards, seconds=SECONDS)
    with pytest.raises(SlotFrozen):
        consume("a")
    assert orders()["default"] == []
    unfreeze([6], shards)
    consume("a")
    assert orders()["default"] == ["a"]


def running(until):
    """The record of an operation under a lease, in slot 6."""
    now = DatabaseNow()
    digests = {"key_digest": b"k" * 16, "scope": b"s" * 16, "principal": b"p" * 16, "fingerprint": b"f" * 17}
    states = {"state": IdempotencyRecord.State.RUNNING, "fence": 1, "slot": 6}
    records = IdempotencyRecord.objects.using("default")
    return records.create(**digests, **states, created_at=now, expires_at=now + until)


def test_freezing_gives_up_when_its_time_is_over_and_can_be_gone_on_with(shards, place):
    record = running(timedelta(minutes=1))
    with pytest.raises(MapError, match="1 operations under a lease are still at work"):
        freeze([6], shards, seconds=0.3)
    with pytest.raises(SlotFrozen):
        place("b")
    record.delete()
    freeze([6], shards, seconds=SECONDS)


def test_who_is_late_when_the_slot_is_frozen_has_lost_the_fence(shards):
    record = running(timedelta(seconds=-1))
    freeze([6], shards, seconds=SECONDS)
    record.refresh_from_db()
    assert (record.state, record.fence) == (IdempotencyRecord.State.RUNNING, 2)


@pytest.mark.skipif(VENDOR == "sqlite", reason="its one writer is the operation itself")
def test_who_is_late_cannot_complete_in_a_frozen_slot(shards, place):
    def freeze_when_it_is_over():
        rows = IdempotencyRecord.objects.using("default")
        rows.update(expires_at=DatabaseNow() - timedelta(seconds=1))
        freeze([6], shards, seconds=SECONDS)

    with pytest.raises(OperationInProgress):
        place("a", lambda: in_a_thread(freeze_when_it_is_over), mode="lease", rerun=True)
    assert orders()["default"] == []


@pytest.mark.skipif(VENDOR != "postgresql", reason="elsewhere the locked row is read as it is now")
def test_a_snapshot_from_before_the_freeze_does_not_help(shards, user_on):
    alias = shard_of(user_on(6))
    with transaction.atomic(using="default"):
        with connections["default"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM idempotency_shard_slot")
        in_a_thread(lambda: freeze([6], shards, seconds=SECONDS))
        with pytest.raises(Exception, match="could not serialize"), transaction.atomic(using="default"):
            hold(alias)


def test_a_process_of_another_map_is_refused(shards, settings, place, caplog):
    settings.IDEMPOTENCY_SHARDS = {**MOVED, "VERSION": 1}
    with pytest.raises(WrongShardMap) as refusal:
        place("b")
    assert refusal.value.code == "store-unavailable"
    assert "default" not in refusal.value.detail
    assert "and the slot on 'default'" in caplog.text
    with pytest.raises(
        WrongShardMap, match="slots 6-7 on 'default'; in the settings they are on 'elsewhere'"
    ):
        require_same_map()
    assert orders() == {"default": [], "elsewhere": []}


def test_a_database_without_a_map_is_refused(shards, place):
    Shard.objects.using("default").all().delete()
    with pytest.raises(WrongShardMap, match="shards adopt"):
        place()
    with pytest.raises(WrongShardMap, match="has no map"):
        require_same_map()


def test_a_database_that_is_another_than_its_alias_says_is_refused(shards, place):
    Shard.objects.using("default").update(name="elsewhere")
    with pytest.raises(WrongShardMap, match="calls itself 'elsewhere'"):
        place()


def test_a_slot_that_is_not_here_is_refused_whatever_the_map_says(shards, place):
    ShardSlot.objects.using("default").filter(slot=6).update(owner="elsewhere")
    with pytest.raises(WrongShardMap, match="the slot on 'elsewhere'"):
        place()


def test_both_maps_are_served_until_the_old_one_is_retired(shards, settings, user_on, place):
    other = idempotent(key="key", scope=lambda key: user_on(3))(create)
    freeze([6, 7], shards, seconds=SECONDS)
    settings.IDEMPOTENCY_SHARDS = MOVED
    assert adopt(shard_map()) == ["default", "elsewhere"]
    assert adopt(shard_map()) == []
    for version, key in ((MOVED, "new"), (TWO, "old")):
        settings.IDEMPOTENCY_SHARDS = version
        require_same_map()
        other(key)
        with pytest.raises(SlotFrozen):
            place(key)
    settings.IDEMPOTENCY_SHARDS = MOVED
    with pytest.raises(MapError, match="still serves version 1"):
        unfreeze([6, 7], shard_map())
    retire(shard_map())
    unfreeze([6, 7], shard_map())
    place("there")
    assert orders() == {"default": ["new", "old"], "elsewhere": ["there"]}
    settings.IDEMPOTENCY_SHARDS = TWO
    with pytest.raises(WrongShardMap):
        other("late")
    with pytest.raises(MapError, match="has version 2 already"):
        adopt(shard_map())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (MOVED, "serves slots 6-7, which version 2 moves"),
        ({**MOVED, "VERSION": 1}, "count VERSION up"),
        ({**TWO, "VERSION": 2, "SLOTS": 8, "MAP": {"default": "0-7"}}, "SLOTS, which never changes"),
    ],
)
def test_a_map_that_would_tear_keys_apart_is_not_adopted(shards, settings, change, said):
    settings.IDEMPOTENCY_SHARDS = change
    with pytest.raises(MapError, match=said):
        adopt(shard_map())
    assert set(Shard.objects.using("default").values_list("version", F("name"))) == {(1, "default")}


def test_adopting_goes_on_where_it_was_interrupted(shards, settings):
    freeze([6, 7], shards, seconds=SECONDS)
    settings.IDEMPOTENCY_SHARDS = MOVED
    adopt(shard_map())
    # As if it had been killed before the second database.
    rows = Shard.objects.using("elsewhere")
    rows.update(version=1, fingerprint=shards.fingerprint, previous_version=None, previous_fingerprint=None)
    ShardSlot.objects.using("elsewhere").filter(slot__in=[6, 7]).update(owner="default")
    assert adopt(shard_map()) == ["elsewhere"]
    require_same_map()
