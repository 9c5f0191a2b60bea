"""``@idempotent``: a function whose calls with one key happen once."""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
import uuid
from contextlib import contextmanager
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from idempotency import signals
from idempotency.decorators import idempotent
from idempotency.exceptions import (
    FingerprintMismatch,
    InvalidKey,
    NotFingerprintable,
    NotStorable,
    OperationInProgress,
)
from idempotency.keys import ScopedKey
from idempotency.locks import first_wins, lock
from idempotency.models import IdempotencyRecord
from idempotency.unique_ids import unique_ids
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)


@idempotent(key="reference")
def place(reference, note="", *, quantity=1):
    """Place an order."""
    order = Order.objects.create(reference=reference, note=note)
    return {"id": order.pk, "quantity": quantity}


@idempotent(key="reference")
async def place_async(reference, note=""):
    order = await Order.objects.acreate(reference=reference, note=note)
    return {"id": order.pk}


@idempotent(key="reference")
def place_with(reference, extra):
    Order.objects.create(reference=reference)


@idempotent(key="reference", operation="place-and-give-back")
def place_and_give_back(reference):
    Order.objects.create(reference=reference)
    return RESULTS[reference]


@idempotent(key="reference", operation="place-or-fail")
def place_or_fail(reference):
    Order.objects.create(reference=reference)
    if FAILURES:
        raise FAILURES.pop()


class Colour(enum.Enum):
    RED = 1


class Unknown:
    pass


RESULTS = {}
FAILURES = []


@pytest.fixture(autouse=True)
def no_leftovers():
    yield
    RESULTS.clear()
    FAILURES.clear()


def written():
    return Order.objects.count(), IdempotencyRecord.objects.count()


@contextmanager
def rolled_back():
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


# The key


def test_a_second_call_gets_the_first_result_and_runs_nothing():
    assert place("a") == place("a") == {"id": Order.objects.get().pk, "quantity": 1}
    assert written() == (1, 1)


def test_another_key_runs_again():
    assert place("a") != place("b")
    assert written() == (2, 2)


@pytest.mark.parametrize(
    "again",
    [
        lambda: place("a", "n", quantity=1),
        lambda: place("a", note="n"),
        lambda: place(reference="a", note="n"),
        lambda: place(note="n", quantity=1, reference="a"),
    ],
)
def test_however_the_arguments_are_passed_it_is_the_same_call(again):
    assert place("a", "n") == again()
    assert written() == (1, 1)


@pytest.mark.parametrize(
    "other", [lambda: place("a", "n"), lambda: place("a", quantity=2), lambda: place("a", quantity=True)]
)
def test_other_arguments_under_the_key_are_refused(other):
    place("a")
    with pytest.raises(FingerprintMismatch):
        other()
    assert written() == (1, 1)


def test_a_callable_takes_the_key_from_the_arguments():
    @idempotent(key=lambda event: event["id"], operation="by-callable")
    def handle(event):
        return Order.objects.create(reference=event["id"]).pk

    assert handle({"id": "e1"}) == handle({"id": "e1"})
    assert IdempotencyRecord.objects.get().key == "e1"


@pytest.mark.parametrize("key", [7, uuid.UUID(int=7), "x" * 255])
def test_the_text_of_an_argument_is_the_key(key):
    place_key = idempotent(key="reference", operation="text")(lambda reference: str(reference))
    place_key(key)
    assert IdempotencyRecord.objects.get().key == str(key)


@pytest.mark.parametrize("key", [None, "", "clé", "x" * 256])
def test_a_call_without_a_valid_key_is_refused_before_it_runs(key):
    with pytest.raises(InvalidKey):
        place(key)
    assert written() == (0, 0)


def test_a_key_that_names_no_argument_is_an_error_at_import():
    with pytest.raises(TypeError, match="no argument 'refrence'"):
        idempotent(key="refrence")(place.__wrapped__)


def test_a_call_with_wrong_arguments_fails_like_the_function_itself():
    with pytest.raises(TypeError, match="missing a required argument: 'reference'"):
        place()
    assert written() == (0, 0)


def test_the_function_keeps_its_name_and_its_words():
    assert (place.__name__, place.__doc__) == ("place", "Place an order.")


def test_two_functions_do_not_share_their_keys():
    place("a")
    place_with("a", 1)
    assert written() == (2, 2)


def test_a_function_that_was_renamed_keeps_its_operation():
    old = idempotent(key="n", operation="stable")(lambda n: "old")
    new = idempotent(key="n", operation="stable")(lambda n: "new")
    assert (old("a"), new("a")) == ("old", "old")


def test_a_scope_keeps_callers_apart():
    @idempotent(key="reference", scope=lambda reference, tenant: ("tenant", tenant), operation="scoped")
    def place_for(reference, tenant):
        return Order.objects.create(reference=reference, owner=tenant).pk

    assert place_for("a", "one") != place_for("a", "two")
    assert place_for("a", "one") == Order.objects.get(owner="one").pk


def test_a_database_is_named_or_chosen_by_the_arguments():
    asked = []

    def choose(reference):
        asked.append(reference)
        return "default"

    idempotent(key="reference", using=choose, operation="chosen")(lambda reference: None)("a")
    idempotent(key="reference", using="default", operation="named")(lambda reference: None)("a")
    assert asked == ["a"]
    assert IdempotencyRecord.objects.count() == 2


# The arguments


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, "two", None],
        {"b": 2, "a": [1.5]},
        {1, 2, 3},
        b"bytes",
        Colour.RED,
        decimal.Decimal("1.10"),
        uuid.UUID(int=7),
        datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
        timedelta(days=1, microseconds=1),
    ],
    ids=str,
)
def test_plain_values_are_arguments(value):
    place_with("a", value)
    place_with("a", value)
    assert written() == (1, 1)


def test_a_saved_model_counts_by_its_pk():
    alice, bob = (User.objects.create(username=name) for name in ("alice", "bob"))
    place_with("a", alice)
    place_with("a", User.objects.get(pk=alice.pk))
    with pytest.raises(FingerprintMismatch):
        place_with("a", bob)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (1, True),
        (1, 1.0),
        (0, None),
        ("a", b"a"),
        ("2026-01-02", datetime.date(2026, 1, 2)),
        (decimal.Decimal("1"), 1),
        (["a"], {"a"}),
        ([["a", 1]], {"a": 1}),
        ({1: "a"}, {"1": "a"}),
        (Colour.RED, "RED"),
        (["bytes", "61"], b"a"),
        ([], {}),
    ],
    ids=str,
)
def test_values_of_two_types_are_two_payloads(one, other):
    place_with("a", one)
    with pytest.raises(FingerprintMismatch):
        place_with("a", other)


def test_the_order_of_a_dict_or_a_set_does_not_matter():
    place_with("a", {"x": 1, "y": {"b", "a", "c"}})
    place_with("a", {"y": {"c", "b", "a"}, "x": 1})
    assert written() == (1, 1)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Unknown(),
        Unknown,
        [1, object()],
        {"a": Unknown()},
        float("nan"),
        float("inf"),
        {1.5, float("nan")},
        len,
        iter([1]),
        User(username="unsaved"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_without_a_stable_text_is_refused_before_it_runs(value):
    with pytest.raises(NotFingerprintable, match=r"place_with\(\): argument 'extra' of type"):
        place_with("a", value)
    assert written() == (0, 0)


def test_a_queryset_is_refused_and_not_evaluated(django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(NotFingerprintable):
        place_with("a", User.objects.all())


def test_an_open_file_is_refused():
    with open(__file__) as file, pytest.raises(NotFingerprintable):
        place_with("a", file)


def test_a_list_that_contains_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(NotFingerprintable):
        place_with("a", endless)


@idempotent(key="reference")
def order_as(self, reference):
    return Order.objects.create(reference=reference, owner=self.username).pk


class Desk:
    @idempotent(key="reference")
    def order(self, reference):
        Order.objects.create(reference=reference)

    @staticmethod
    @idempotent(key="reference")
    def order_statically(reference):
        return Order.objects.create(reference=reference).pk


def test_a_method_of_a_saved_model_has_its_row_among_the_arguments(monkeypatch):
    monkeypatch.setattr(User, "order", order_as, raising=False)
    alice, bob = (User.objects.create(username=name) for name in ("alice", "bob"))
    assert alice.order("a") == alice.order("a")
    with pytest.raises(FingerprintMismatch):
        bob.order("a")


def test_a_method_of_any_other_object_is_refused_by_the_name_of_self():
    with pytest.raises(NotFingerprintable, match=r"Desk.order\(\): argument 'self' of type Desk"):
        Desk().order("a")
    assert written() == (0, 0)


def test_a_static_method_is_a_function():
    assert Desk().order_statically("a") == Desk.order_statically("a")


# The result


@pytest.mark.parametrize(
    "result",
    [None, True, 7, 1.5, "grüße \ud800", [1, [None]], {"a": {"b": []}}, 2**70, "%s", "\x00"],
    ids=ascii,
)
def test_a_result_comes_back_as_it_was(result):
    RESULTS["a"] = result
    assert (place_and_give_back("a"), place_and_give_back("a")) == (result, result)
    assert Order.objects.count() == 1


@pytest.mark.parametrize(
    "result",
    [(1, 2), object(), float("nan"), float("inf"), {1}, {1: "a"}, {"a": (1,)}, b"a", "\ud83d\ude00"],
    ids=lambda result: type(result).__name__,
)
def test_a_result_that_cannot_be_stored_rolls_back_and_frees_the_key(result):
    RESULTS["a"] = result
    with pytest.raises(NotStorable):
        place_and_give_back("a")
    assert written() == (0, 0)
    RESULTS["a"] = "better"
    assert place_and_give_back("a") == "better"
    assert written() == (1, 1)


def test_a_model_cannot_be_a_result():
    @idempotent(key="reference", operation="returns-a-model")
    def place_order(reference):
        return Order.objects.create(reference=reference)

    with pytest.raises(NotStorable):
        place_order("a")
    assert written() == (0, 0)


def test_a_change_to_a_result_does_not_change_the_next_one():
    RESULTS["a"] = [1]
    place_and_give_back("a")
    place_and_give_back("a").append(2)
    assert place_and_give_back("a") == [1]


# Failing, ending, expiring


def test_an_exception_rolls_back_and_frees_the_key():
    FAILURES.append(LookupError("first"))
    with pytest.raises(LookupError, match="first"):
        place_or_fail("a")
    assert written() == (0, 0)
    place_or_fail("a")
    assert written() == (1, 1)


def test_an_interruption_rolls_back_and_frees_the_key():
    FAILURES.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        place_or_fail("a")
    assert written() == (0, 0)
    assert not connection.in_atomic_block


def test_an_expired_record_lets_the_function_run_again():
    first = place("a")
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(days=1))
    assert place("a", "other arguments even") != first
    assert written() == (2, 1)


def test_a_failure_over_an_expired_record_leaves_it_expired():
    place_or_fail("a")
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(days=1))
    FAILURES.append(LookupError())
    with pytest.raises(LookupError):
        place_or_fail("a")
    assert IdempotencyRecord.objects.expired().count() == 1
    place_or_fail("a")
    assert written() == (2, 1)


@pytest.mark.parametrize("retention", [timedelta(hours=1), timedelta(days=400)])
def test_a_record_is_kept_as_long_as_the_function_says(retention):
    idempotent(key="n", retention=retention, operation="kept")(lambda n: None)("a")
    record = IdempotencyRecord.objects.get()
    assert abs(record.expires_at - record.created_at - retention) < timedelta(seconds=1)


def test_a_record_is_kept_as_long_as_the_settings_say(settings):
    settings.IDEMPOTENCY_RETENTION = timedelta(minutes=5)
    place("a")
    record = IdempotencyRecord.objects.get()
    assert abs(record.expires_at - record.created_at - timedelta(minutes=5)) < timedelta(seconds=1)


def test_a_call_within_a_transaction_stands_or_falls_with_it():
    with rolled_back():
        place("a")
    assert written() == (0, 0)
    with transaction.atomic():
        place("a")
    assert written() == (1, 1)


def test_a_failed_call_leaves_the_transaction_around_it_usable():
    FAILURES.append(IntegrityError())
    with transaction.atomic():
        place("a")
        with pytest.raises(IntegrityError):
            place_or_fail("b")
        place("c")
    assert sorted(Order.objects.values_list("reference", flat=True)) == ["a", "c"]


# One function within another


@idempotent(key="reference", operation="checkout")
def checkout(reference, fail=False):
    placed = place(f"{reference}-order")
    if fail:
        raise LookupError
    return placed


def test_nested_functions_happen_once_each_in_one_transaction():
    assert checkout("a") == checkout("a") == place("a-order")
    assert written() == (1, 2)


def test_a_failing_outer_function_takes_the_inner_one_with_it():
    with pytest.raises(LookupError):
        checkout("a", fail=True)
    assert written() == (0, 0)


def test_an_inner_function_that_was_done_before_gives_its_result():
    placed = place("a-order")
    assert checkout("a") == placed
    assert written() == (1, 2)


def test_an_outer_function_may_survive_a_failing_inner_one():
    FAILURES.append(LookupError())

    @idempotent(key="reference", operation="tolerant")
    def tolerate(reference):
        place(reference)
        with pytest.raises(LookupError):
            place_or_fail(reference)

    tolerate("a")
    assert written() == (1, 2)


def test_an_inner_mismatch_rolls_the_outer_function_back():
    place("a-order", "by somebody else")
    with pytest.raises(FingerprintMismatch):
        checkout("a")
    assert written() == (1, 1)


def test_a_function_that_calls_itself_under_its_own_key_is_refused():
    @idempotent(key="reference", operation="recursive")
    def recurse(reference, depth=1):
        Order.objects.create(reference=reference)
        return recurse(reference, depth) if depth else None

    with pytest.raises(OperationInProgress, match="calls itself"):
        recurse("a")
    assert written() == (0, 0)
    assert recurse("a", depth=0) is None


# Async


def test_an_async_function_happens_once():
    first = async_to_sync(place_async)("a")
    assert async_to_sync(place_async)("a") == first
    assert written() == (1, 1)


def test_an_async_function_that_fails_frees_the_key():
    @idempotent(key="reference", operation="async-failing")
    async def fail(reference):
        await Order.objects.acreate(reference=reference)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            async_to_sync(fail)("a")
    assert written() == (0, 0)


def test_nested_async_functions_happen_once_each():
    @idempotent(key="reference", operation="async-outer")
    async def outer(reference):
        return [await place_async("inner"), await place_async("inner")]

    first, again = async_to_sync(outer)("a"), async_to_sync(outer)("a")
    assert first == again
    assert first[0] == first[1]
    assert written() == (1, 2)


def test_an_async_function_refuses_other_arguments():
    async_to_sync(place_async)("a")
    with pytest.raises(FingerprintMismatch):
        async_to_sync(place_async)("a", "other")


# What is announced


@pytest.fixture
def announced():
    """Names and arguments of the signals, in their order."""
    events = []
    receivers = {}
    for signal, name in signals.EVENTS.items():
        receivers[signal] = lambda sender, signal, name=name, **extra: events.append((name, sender, extra))
        signal.connect(receivers[signal])
    yield events
    for signal, receiver in receivers.items():
        signal.disconnect(receiver)


KEY = ScopedKey(("function", ""), f"{__name__}.place", "a")


def test_a_first_call_is_claimed_and_completed(announced):
    place("a")
    assert announced == [
        ("claimed", None, {"key": KEY, "using": "default", "mechanism": "record"}),
        ("completed", None, {"key": KEY, "using": "default", "mechanism": "record"}),
    ]


def test_a_second_call_is_replayed_with_its_record(announced):
    place("a")
    announced.clear()
    place("a")
    record = IdempotencyRecord.objects.get()
    assert announced == [
        ("replayed", None, {"key": KEY, "using": "default", "mechanism": "record", "record": record})
    ]


def test_a_mismatch_is_refused_with_its_error(announced):
    place("a")
    announced.clear()
    with pytest.raises(FingerprintMismatch) as refusal:
        place("a", "other")
    assert announced == [
        ("refused", None, {"key": KEY, "using": "default", "mechanism": "record", "error": refusal.value})
    ]


def test_a_failing_call_is_claimed_and_abandoned(announced):
    FAILURES.append(LookupError())
    with pytest.raises(LookupError):
        place_or_fail("a")
    assert [name for name, *_ in announced] == ["claimed", "abandoned"]


def test_completion_within_a_transaction_is_announced_when_that_commits(announced):
    with transaction.atomic():
        place("a")
        assert [name for name, *_ in announced] == ["claimed"]
    assert [name for name, *_ in announced] == ["claimed", "completed"]


def test_completion_is_not_announced_when_the_transaction_around_it_rolls_back(announced):
    with rolled_back():
        place("a")
    assert "completed" not in [name for name, *_ in announced]


def test_completion_is_announced_after_the_commit():
    inside = []

    def receive(**extra):
        inside.append(connection.in_atomic_block)

    signals.completed.connect(receive)
    place("a")
    signals.completed.disconnect(receive)
    assert inside == [False]


@pytest.mark.parametrize("name", ["claimed", "completed", "replayed", "refused", "abandoned"])
def test_an_error_of_a_receiver_never_reaches_the_caller(name):
    def receive(**extra):
        raise RuntimeError("a receiver's own")

    signal = getattr(signals, name)
    signal.connect(receive)
    try:
        assert place("a") == place("a")
        with pytest.raises(FingerprintMismatch):
            place("a", "other")
        FAILURES.append(LookupError())
        with pytest.raises(LookupError):
            place_or_fail("b")
    finally:
        signal.disconnect(receive)
    assert written() == (1, 1)


@pytest.mark.parametrize("name", ["claimed", "completed", "replayed", "refused", "abandoned"])
def test_a_receiver_may_use_the_database_when_the_function_is_async(name):
    seen = []

    def receive(**extra):
        seen.append(Order.objects.count())

    @idempotent(key="reference", operation="async-failing")
    async def fail(reference):
        raise LookupError

    async def call_all():
        await place_async("a")
        await place_async("a")
        with pytest.raises(FingerprintMismatch):
            await place_async("a", "other")
        with pytest.raises(LookupError):
            await fail("b")

    signal = getattr(signals, name)
    signal.connect(receive)
    try:
        async_to_sync(call_all)()
    finally:
        signal.disconnect(receive)
    assert seen


def test_the_log_tells_the_events_but_neither_key_nor_payload(caplog):
    caplog.set_level(logging.INFO, "idempotency")
    secret = "4111-1111"
    place(secret, "the payload")
    place(secret, "the payload")
    with pytest.raises(FingerprintMismatch):
        place(secret, "another payload")
    name = f"{__name__}.place {ScopedKey(('function', ''), '', secret).key_digest.hex()[:12]}"
    assert [record.getMessage() for record in caplog.records if record.name == "idempotency"] == [
        f"claimed {name}",
        f"completed {name}",
        f"replayed {name}",
        f"refused {name} fingerprint-mismatch",
    ]
    assert secret not in caplog.text
    assert "payload" not in caplog.text


def test_an_abandoned_call_is_logged(caplog):
    caplog.set_level(logging.INFO, "idempotency")
    FAILURES.append(LookupError("secret"))
    with pytest.raises(LookupError):
        place_or_fail("a")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["claimed", "abandoned"]
    assert "secret" not in caplog.text


def test_an_inner_refusal_is_announced_once_and_for_the_inner_key(announced):
    @idempotent(key="reference", operation="outer")
    def outer(reference):
        return place("inner", "other")

    place("inner")
    announced.clear()
    with pytest.raises(FingerprintMismatch):
        outer("outer")
    refusals = [sent["key"].key for name, _, sent in announced if name == "refused"]
    assert refusals == ["inner"]


def generate(key):
    yield key


async def generate_asynchronously(key):
    yield key


@pytest.mark.parametrize("lazy", [generate, generate_asynchronously, Order])
def test_what_runs_after_its_guard_was_left_cannot_be_decorated(lazy):
    for decorate in (idempotent(key="key"), idempotent(guard=unique_ids(), key="key"), lock("a")):
        with pytest.raises(TypeError, match="decorates functions and coroutine functions"):
            decorate(lazy)


@pytest.mark.parametrize("guard", [unique_ids, first_wins, lock("a")])
def test_what_makes_no_guards_is_refused_at_once(guard):
    with pytest.raises(TypeError, match="guard is"):
        idempotent(guard=guard, key="key")


def test_a_key_without_a_text_of_its_own_is_refused_where_nothing_compares_arguments():
    @idempotent(guard=unique_ids(), key="order")
    def handle(order):
        raise AssertionError

    for order in (Order(), True, 1.0, b"a", ["a"]):
        with pytest.raises(InvalidKey):
            handle(order)
