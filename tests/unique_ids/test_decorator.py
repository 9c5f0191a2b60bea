"""``@idempotent(guard=unique_ids(…), key=…)``."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection

from idempotency.decorators import idempotent
from idempotency.exceptions import AlreadyHandled, InvalidKey, OperationInProgress
from idempotency.unique_ids import unique_ids
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])


@pytest.fixture
def ids(made):
    return made()


@pytest.fixture(params=["sync", "async"])
def guarded(request, ids):
    """``guarded(work, operation=…)``: a function of an id that orders, and then works."""

    def guarded(work=lambda id: f"done {id}", **options):
        options = {"operation": "handle", "key": "id", **options}
        if request.param == "sync":

            @idempotent(guard=ids, **options)
            def handle(id, whose=""):
                Order.objects.create(reference=id)
                return work(id)

            return handle

        @idempotent(guard=ids, **options)
        async def handle_async(id, whose=""):
            await Order.objects.acreate(reference=id)
            return await sync_to_async(work)(id)

        return async_to_sync(handle_async)

    return guarded


def fail(id):
    raise LookupError("the work's own")


def test_what_was_handled_is_skipped_and_returns_none(guarded):
    handle = guarded()
    assert [handle("a"), handle("a"), handle("b")] == ["done a", None, "done b"]
    assert Order.objects.count() == 2


def test_signals_say_what_became_of_it(guarded, announced, ids):
    handle = guarded()
    handle("a")
    handle("a")
    names = [(name, mechanism, key.key, code) for name, mechanism, key, code in announced]
    assert names == [
        ("claimed", "unique-id", "a", None),
        ("completed", "unique-id", "a", None),
        ("refused", "unique-id", "a", "duplicate"),
    ]


def test_a_failure_is_announced_rolled_back_and_may_be_handled_again(guarded, announced):
    with pytest.raises(LookupError):
        guarded(fail)("a")
    assert [name for name, *_ in announced] == ["claimed", "abandoned"]
    assert not Order.objects.exists()
    assert guarded()("a") == "done a"


def test_operations_and_scopes_and_names_keep_ids_apart(guarded, ids):
    def scoped(id, whose=""):
        return ("shop", whose)

    one, other = guarded(operation="one"), guarded(operation="other")
    owned = guarded(operation="owned", scope=scoped)
    assert [one("a"), other("a"), owned("a", "x"), owned("a", "y")] == ["done a"] * 4
    assert [one("a"), other("a"), owned("a", "x"), owned("a", "y")] == [None] * 4
    named = idempotent(guard=unique_ids(ids.alias, "other"), key="id", operation="one")(lambda id: id)
    assert [named("a"), named("a")] == ["a", None]
    # Nor are they those that are added by hand.
    assert ids.add("a")


def test_a_second_call_from_within_is_told_to_come_back(guarded):
    calls = []

    def again(id):
        with pytest.raises(OperationInProgress):
            idempotent_again(id)
        calls.append(id)
        return "done"

    idempotent_again = guarded()
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    assert guarded(again)("a") == "done"
    assert calls == ["a"]


def test_a_nested_function_s_skipping_is_not_taken_for_the_outer_s(guarded, ids):
    def inner(id):
        with ids.once("inner"):
            return "done"

    outer = guarded(inner)
    assert outer("a") == "done"
    with pytest.raises(AlreadyHandled):
        outer("b")
    # It failed, by another's refusal: it may be handled again, and left nothing.
    assert Order.objects.count() == 1
    ids.discard("inner")
    assert outer("b") == "done"


def test_a_nested_function_that_is_skipped_leaves_the_outer_its_result(ids):
    inner = idempotent(guard=ids, key="id", operation="inner")(lambda id: "inner")
    outer = idempotent(guard=ids, key="id", operation="outer")(lambda id: [inner("x")])
    assert [outer("a"), outer("b"), outer("b")] == [["inner"], [None], None]


@pytest.mark.parametrize("id", [None, "", "clé", "x" * 256])
def test_a_malformed_id_is_refused_before_anything_runs(guarded, id):
    with pytest.raises(InvalidKey):
        guarded()(id)
    assert not Order.objects.exists()


@pytest.mark.parametrize("option", [{"retention": timedelta(hours=1)}, {"wait": timedelta(0)}], ids=str)
def test_what_is_a_record_s_is_refused_at_import(option):
    with pytest.raises(TypeError, match="are a record's"):
        idempotent(guard=unique_ids(), key="id", **option)


def test_settings_are_read_when_it_is_called(settings):
    handle = idempotent(guard=unique_ids("later"), key="id", operation="later")(lambda id: "done")
    settings.IDEMPOTENCY_UNIQUE_IDS = {"later": {}}
    assert [handle("a"), handle("a")] == ["done", None]
