"""Async views: one thread per request, cancelled at any moment, or wrongly sharing a connection."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse
from django.test import AsyncClient
from django.urls import path
from django.utils import timezone

from idempotency import nesting
from idempotency.decorators import idempotent, idempotent_view
from idempotency.exceptions import ForeignTransaction
from idempotency.models import IdempotencyRecord
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]

PATIENCE = 10


class Stage:
    """How many requests are inside the view, and whether they may go on."""

    def __init__(self, audience=1, opened=False):
        self.inside, self.audience = 0, audience
        self.full, self.opened = asyncio.Event(), asyncio.Event()
        if opened:
            self.opened.set()

    async def enter(self):
        self.inside += 1
        if self.inside >= self.audience:
            self.full.set()
        await self.opened.wait()


STAGES = []


@pytest.fixture(autouse=True)
def no_stage():
    STAGES.clear()


@idempotent_view(allow_anonymous=True, operation="async order")
async def place(request):
    order = await Order.objects.acreate(reference=request.headers["Idempotency-Key"])
    if STAGES:
        await STAGES[0].enter()
    return JsonResponse({"id": order.pk}, status=201)


@idempotent_view
async def place_as_user(request):
    order = await Order.objects.acreate(owner=str(await request.auser()))
    return JsonResponse({"id": order.pk}, status=201)


@idempotent_view(allow_anonymous=True, operation="async failing")
async def fail(request):
    await Order.objects.acreate()
    raise LookupError


@idempotent_view(allow_anonymous=True, operation="async unstored")
async def answer_500(request):
    await Order.objects.acreate()
    return HttpResponse(status=500)


@idempotent_view(allow_anonymous=True, operation="async nesting")
async def place_two(request):
    one = await sync_to_async(place_sync)("inner-1")
    other = await place_async("inner-2")
    return JsonResponse({"ids": [one, other]}, status=201)


@idempotent(key="reference")
def place_sync(reference):
    return Order.objects.create(reference=reference).pk


@idempotent(key="reference")
async def place_async(reference):
    return (await Order.objects.acreate(reference=reference)).pk


@idempotent_view(allow_anonymous=True, operation="async impatient")
async def give_up(request):
    await Order.objects.acreate()
    try:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    except TimeoutError:
        return HttpResponse(status=202)


HOOKS = []


@idempotent_view(allow_anonymous=True, operation="async hooked")
async def place_with_hook(request):
    await Order.objects.acreate()
    for hook in HOOKS:
        await sync_to_async(transaction.on_commit)(hook)
    return JsonResponse({}, status=201)


@pytest.fixture
def hooks():
    yield HOOKS
    HOOKS.clear()


urlpatterns = [
    path("place/", place),
    path("place-as-user/", place_as_user),
    path("fail/", fail),
    path("answer-500/", answer_500),
    path("place-two/", place_two),
    path("impatient/", give_up),
    path("place-with-hook/", place_with_hook),
]


def post(client, address="/place/", key="a"):
    return client.post(address, headers={"Idempotency-Key": key})


def written():
    return Order.objects.count(), IdempotencyRecord.objects.count()


def is_clean():
    """No transaction, no guard and no watcher is left on the connection."""
    guards = getattr(connection, "idempotency_guards", [])
    return not (connection.in_atomic_block or connection.execute_wrappers or guards)


# AsyncClient


@async_to_sync
async def post_in_turn(*addresses):
    client = AsyncClient(raise_request_exception=False)
    return [await post(client, address) for address in addresses]


def test_a_retry_gets_the_first_response_and_runs_nothing():
    first, again = post_in_turn("/place/", "/place/")
    assert (first.status_code, again.status_code) == (201, 201)
    assert ("Idempotency-Replayed" in first, again["Idempotency-Replayed"]) == (False, "true")
    assert first.content == again.content
    assert written() == (1, 1)


@pytest.mark.parametrize("address", ["/fail/", "/answer-500/"])
def test_what_is_not_stored_rolls_back_and_frees_the_key(address):
    answers = post_in_turn(address, address)
    assert [answer.status_code for answer in answers] == [500, 500]
    assert not any("Idempotency-Replayed" in answer for answer in answers)
    assert written() == (0, 0)
    assert is_clean()


def test_functions_within_an_async_view_are_nested_in_it():
    first, again = post_in_turn("/place-two/", "/place-two/")
    assert (first.status_code, first.content) == (201, again.content)
    assert written() == (2, 3)


def test_users_are_apart():
    users = [User.objects.create(username=name) for name in ("alice", "bob")]

    @async_to_sync
    async def post_as(user):
        client = AsyncClient()
        await client.aforce_login(user)
        return await post(client, "/place-as-user/")

    assert [post_as(user).status_code for user in users * 2] == [201] * 4
    assert sorted(Order.objects.values_list("owner", flat=True)) == ["alice", "bob"]


def test_a_user_is_needed():
    (answer,) = post_in_turn("/place-as-user/")
    assert (answer.status_code, answer.json()["code"]) == (403, "missing-principal")


def test_requests_that_share_a_connection_are_refused_rather_than_mixed():
    async def interleave():
        STAGES.append(Stage())
        client = AsyncClient()
        first = asyncio.create_task(post(client, key="a"))
        await asyncio.wait_for(STAGES[0].full.wait(), PATIENCE)
        for key in "ab":
            with pytest.raises(ForeignTransaction):
                await asyncio.wait_for(post(client, key=key), PATIENCE)
        STAGES[0].opened.set()
        return await first, await post(client, key="b")

    first, second = async_to_sync(interleave)()
    assert (first.status_code, second.status_code) == (201, 201)
    assert sorted(Order.objects.values_list("reference", flat=True)) == ["a", "b"]
    assert is_clean()


def test_a_refused_neighbour_does_not_commit_what_the_first_rolls_back():
    async def interleave():
        STAGES.append(Stage())
        first = asyncio.create_task(post(AsyncClient(), key="a"))
        await asyncio.wait_for(STAGES[0].full.wait(), PATIENCE)
        with pytest.raises(ForeignTransaction):
            await asyncio.wait_for(post(AsyncClient(), key="b"), PATIENCE)
        first.cancel()
        await asyncio.wait([first])

    async_to_sync(interleave)()
    assert written() == (0, 0)
    assert is_clean()


def test_a_context_forgets_the_guards_that_were_left():
    async def many():
        for key in "abc":
            await place_async(key)
        return nesting._mine.get()

    assert async_to_sync(many)() == ()


# ASGI, where each request has its own thread and connection


def communicator(address="/place/", key="a"):
    headers = [(b"host", b"testserver"), (b"idempotency-key", key.encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": address}
    return ApplicationCommunicator(ASGIHandler(), {**scope, "query_string": b"", "headers": headers})


async def answer(application):
    """Status, whether it is a replay, and the body."""
    start = await application.receive_output(PATIENCE)
    body = b""
    while True:
        part = await application.receive_output(PATIENCE)
        body += part["body"]
        if not part.get("more_body"):
            break
    await application.wait(PATIENCE)
    return start["status"], (b"Idempotency-Replayed", b"true") in start["headers"], body


async def request(address="/place/", key="a"):
    application = communicator(address, key)
    await application.send_input({"type": "http.request", "body": b""})
    return await answer(application)


def test_a_retry_under_asgi_is_replayed():
    async def twice():
        return await request(), await request()

    (status, replayed, body), again = asyncio.run(twice())
    assert (status, replayed) == (201, False)
    assert again == (201, True, body)
    assert written() == (1, 1)


def test_requests_with_one_key_at_once_have_one_effect():
    async def eight():
        STAGES.append(Stage())
        first = asyncio.create_task(request())
        await asyncio.wait_for(STAGES[0].full.wait(), PATIENCE)
        others = [asyncio.create_task(request()) for _ in range(7)]
        if connection.vendor != "sqlite":  # which makes them wait for the first
            await asyncio.wait(others)
        STAGES[0].opened.set()
        return await first, await asyncio.gather(*others)

    (status, replayed, body), others = asyncio.run(eight())
    assert (status, replayed) == (201, False)
    for other in others:
        assert other == (201, True, body) if connection.vendor == "sqlite" else other[0] == 409
    assert written() == (1, 1)


def statuses_at_once(keys):
    """Answers to one request per key, all of them inside the view at the same time (SQLite excepted)."""

    async def meet():
        STAGES[:] = [Stage(audience=len(keys), opened=connection.vendor == "sqlite")]
        requests = [asyncio.create_task(request(key=key)) for key in keys]
        full = asyncio.create_task(STAGES[0].full.wait())
        await asyncio.wait([*requests, full], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        STAGES[0].opened.set()
        full.cancel()
        return [status for status, *_ in await asyncio.gather(*requests)]

    return asyncio.run(meet())


# Keys that no other test has: InnoDB locks the gaps beside a key that was deleted and comes again.


def test_requests_with_different_keys_run_at_the_same_time():
    keys = sorted(str(uuid.uuid4()) for _ in range(4))
    assert statuses_at_once(keys) == [201] * 4
    assert sorted(Order.objects.values_list("reference", flat=True)) == keys


def test_a_key_that_is_used_again_after_its_expiry_holds_no_other_key_up():
    keys = [str(uuid.uuid4()) for _ in range(4)]
    asyncio.run(request(key=keys[0]))
    IdempotencyRecord.objects.update(expires_at=timezone.now() - timedelta(days=1))
    assert statuses_at_once(keys) == [201] * 4
    assert written() == (5, 4)


def test_a_client_that_disconnects_rolls_back_and_frees_the_key():
    async def disconnect():
        STAGES.append(Stage())
        gone = communicator()
        await gone.send_input({"type": "http.request", "body": b""})
        await asyncio.wait_for(STAGES[0].full.wait(), PATIENCE)
        await gone.send_input({"type": "http.disconnect"})
        await gone.wait(PATIENCE)

    asyncio.run(disconnect())
    assert written() == (0, 0)
    STAGES.clear()
    assert asyncio.run(request())[:2] == (201, False)
    assert written() == (1, 1)


def test_a_client_that_disconnects_after_the_commit_finds_its_answer(hooks):
    async def disconnect_and_retry():
        gone, loop = communicator("/place-with-hook/"), asyncio.get_running_loop()

        def disconnect():
            sent = gone.send_input({"type": "http.disconnect"})
            asyncio.run_coroutine_threadsafe(sent, loop).result(PATIENCE)

        hooks.append(disconnect)
        await gone.send_input({"type": "http.request", "body": b""})
        await gone.wait(PATIENCE)
        return await request("/place-with-hook/")

    status, replayed, _ = asyncio.run(disconnect_and_retry())
    assert (status, replayed) == (201, True)
    assert written() == (1, 1)


# Cancellation


def cancelling(task, loop):
    """A function for another thread, which cancels the task and waits until it has been told."""

    async def cancel():
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    return lambda: asyncio.run_coroutine_threadsafe(cancel(), loop).result(PATIENCE)


@async_to_sync
async def call_and_cancel(address, cancel_at):
    """Post in a task; ``cancel_at(cancel)`` arranges where that is cancelled."""
    task = asyncio.create_task(post(AsyncClient(), address))
    await cancel_at(cancelling(task, asyncio.get_running_loop()))
    await asyncio.wait([task])
    return "cancelled" if task.cancelled() else task.result().status_code


def at_statement(number):
    """Cancel from within the thread's statement of this number, before it is executed."""
    counter = itertools.count(1)

    async def arrange(cancel):
        def wrapper(execute, sql, params, many, context):
            if next(counter) == number:
                cancel()
            return execute(sql, params, many, context)

        # On the thread's connection: the loop's own is another one.
        await sync_to_async(lambda: connection.execute_wrappers.insert(0, wrapper))()

    return arrange


def test_a_cancellation_at_any_statement_leaves_nothing_or_everything():
    for number in itertools.count(1):
        outcome = call_and_cancel("/place/", at_statement(number))
        connection.execute_wrappers.pop(0)
        assert is_clean()
        assert written() in [(0, 0), (1, 1)]
        if outcome != "cancelled":
            break
        (retry,) = post_in_turn("/place/")
        assert retry.status_code == 201
        assert written() == (1, 1)
        Order.objects.all().delete()
        IdempotencyRecord.objects.all().delete()
    assert number > 3  # found, claimed, written, completed


def test_a_cancellation_while_waiting_rolls_back_and_frees_the_key():
    async def when_inside(cancel):
        STAGES.append(Stage())
        await asyncio.wait_for(STAGES[0].full.wait(), PATIENCE)
        await asyncio.to_thread(cancel)

    assert call_and_cancel("/place/", when_inside) == "cancelled"
    assert written() == (0, 0)
    assert is_clean()
    STAGES.clear()
    assert [retry.status_code for retry in post_in_turn("/place/")] == [201]


def test_a_cancellation_during_the_commit_is_delivered_after_it(hooks):
    async def in_the_hook(cancel):
        hooks.append(cancel)

    assert call_and_cancel("/place-with-hook/", in_the_hook) == "cancelled"
    assert written() == (1, 1)
    assert is_clean()
    (retry,) = post_in_turn("/place-with-hook/")
    assert retry["Idempotency-Replayed"] == "true"


def test_an_impatient_caller_cannot_tear_the_commit_apart(hooks):
    async def twice_in_the_hook(cancel):
        hooks.extend([cancel, cancel])

    assert call_and_cancel("/place-with-hook/", twice_in_the_hook) == "cancelled"
    assert written() == (1, 1)
    assert is_clean()


def test_a_deadline_within_the_view_is_an_answer_of_its_own():
    first, again = post_in_turn("/impatient/", "/impatient/")
    assert (first.status_code, again["Idempotency-Replayed"]) == (202, "true")
    assert written() == (1, 1)
