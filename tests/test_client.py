"""The client's side: what is sent again, under which key, and what is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import httpx
import pytest

from idempotency.client import AsyncIdempotencyTransport, IdempotencyTransport, Retries, key_for, new_key
from idempotency.client.retries import retry_after
from idempotency.keys import parse_key
from tests.processes.provider import Fault, Provider
from tests.settings import VENDOR

pytestmark = pytest.mark.skipif(VENDOR != "sqlite", reason="has no database: beside one will do")
QUICK = Retries(pause=0.01, longest_pause=0.02)
CHARGE = {"reference": "order-1", "cents": 2500}


@pytest.fixture(scope="module")
def started_provider():
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(started_provider):
    started_provider.reset()
    return started_provider


def ask_sync(provider, method="POST", path="/charges", *, transport=None, client=None, **options):
    transport = IdempotencyTransport(transport, **{"retries": QUICK, **options})
    content = {"json": CHARGE} if method == "POST" else {}
    with httpx.Client(transport=transport, base_url=provider.url, timeout=5) as asking:
        return asking.request(method, path, **content, **(client or {}))


def ask_async(provider, method="POST", path="/charges", *, transport=None, client=None, **options):
    transport = AsyncIdempotencyTransport(transport, **{"retries": QUICK, **options})
    content = {"json": CHARGE} if method == "POST" else {}

    async def run():
        async with httpx.AsyncClient(transport=transport, base_url=provider.url, timeout=5) as asking:
            return await asking.request(method, path, **content, **(client or {}))

    return asyncio.run(run())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request):
    return request.param


BROKEN = [Fault.REFUSED, Fault.DROPPED, Fault.RESET, Fault.CUT_SHORT]
AGAIN = [*BROKEN, Fault.LATER, Fault.BAD_GATEWAY, Fault.UNAVAILABLE, Fault.TIMED_OUT]


@pytest.mark.parametrize("fault", AGAIN)
def test_it_is_sent_again_under_the_same_key_until_there_is_an_answer(provider, ask, fault):
    provider.befall(fault, fault)
    response = ask(provider)
    assert response.json() == {"id": 1, **CHARGE}
    assert len(provider.charges) == 1
    keys = [request["key"] for request in provider.requests]
    assert keys == [response.request.headers["Idempotency-Key"]] * 3
    assert response.elapsed > timedelta(0)


def test_a_timeout_is_not_the_end_of_it(provider, ask):
    provider.befall(Fault.HELD)
    response = ask(provider, client={"timeout": 0.3})
    provider.let_go()
    assert response.status_code == 200
    assert len(provider.charges) == 1


@pytest.mark.parametrize(("fault", "status"), [(Fault.BUSY, 409), (Fault.ERROR, 500), (None, 201)])
def test_any_other_answer_is_the_callers_at_once(provider, ask, fault, status):
    provider.befall(fault)
    assert ask(provider).status_code == status
    assert len(provider.requests) == 1


def test_a_mismatch_is_the_callers_at_once(provider, ask):
    headers = {"Idempotency-Key": "mine"}
    assert ask(provider, client={"headers": headers}).status_code == 201
    other = {**CHARGE, "cents": 1}
    httpx.post(f"{provider.url}/charges", json=other, headers={"Idempotency-Key": "other"})
    assert ask(provider, client={"headers": {"Idempotency-Key": "other"}}).status_code == 422
    assert [request["key"] for request in provider.requests] == ["mine", "other", "other"]


def test_two_requests_have_two_keys_and_one_that_has_a_key_keeps_it(provider, ask):
    for headers in ({}, {}, {"Idempotency-Key": '"mine"'}):
        ask(provider, client={"headers": headers})
    first, second, third = [request["key"] for request in provider.requests]
    assert first != second
    assert parse_key(third) == "mine"
    assert len(provider.charges) == 3


def test_the_header_and_the_keys_may_be_others(provider, ask):
    response = ask(provider, header="X-Key", make_key=lambda: "made")
    assert response.request.headers["X-Key"] == "made"
    assert "Idempotency-Key" not in response.request.headers


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.UNAVAILABLE])
def test_reading_is_retried_without_a_key(provider, ask, fault):
    ask(provider)
    provider.befall(fault)
    response = ask(provider, "GET", "/charges?reference=order-1")
    assert [charge["id"] for charge in response.json()["charges"]] == [1]
    assert "Idempotency-Key" not in response.request.headers


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.BAD_GATEWAY])
def test_it_is_sent_as_often_as_said(provider, ask, fault):
    provider.befall(*[fault] * 9)
    retries = Retries(attempts=3, pause=0)
    if fault is Fault.REFUSED:
        with pytest.raises(httpx.RemoteProtocolError) as raised:
            ask(provider, retries=retries)
        # It may be asked for again another day.
        key = raised.value.request.headers["Idempotency-Key"]
    else:
        response = ask(provider, retries=retries)
        assert response.status_code == 502
        assert response.json() == {}
        key = response.request.headers["Idempotency-Key"]
    assert [request["key"] for request in provider.requests] == [key] * 3


def test_it_is_not_sent_later_than_said(provider, ask):
    provider.befall(*[Fault.UNAVAILABLE] * 9)
    began = time.monotonic()
    # The server asks for a second each time.
    assert ask(provider, retries=Retries(give_up_after=1.5, pause=0)).status_code == 503
    assert len(provider.requests) == 2
    assert time.monotonic() - began >= 1


def test_an_error_of_the_callers_own_is_not_retried(provider, ask):
    with pytest.raises(httpx.UnsupportedProtocol):
        ask(provider, path="ftp://shop.example/charges")


def test_a_body_that_can_be_read_only_once_is_sent_again(provider):
    provider.befall(Fault.DROPPED, Fault.REFUSED)
    body = iter([b'{"reference": "order-1", ', b'"cents": 2500}'])
    with httpx.Client(transport=IdempotencyTransport(retries=QUICK), base_url=provider.url) as client:
        length = {"Content-Length": "39"}
        assert client.post("/charges", content=body, headers=length).json()["cents"] == 2500
    assert len(provider.charges) == 1


def test_a_pause_ends_when_a_task_is_cancelled(provider):
    provider.befall(*[Fault.BAD_GATEWAY] * 9)

    async def run():
        transport = AsyncIdempotencyTransport(
            retries=Retries(pause=1000, longest_pause=1000, give_up_after=9999)
        )
        async with httpx.AsyncClient(transport=transport, base_url=provider.url) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.post("/charges", json=CHARGE), 0.5)

    asyncio.run(run())
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), ("9" * 400, float("inf")), ("", None), ("soon", None), ("-1", None), ("²", None)],
)
def test_what_retry_after_says(value, seconds):
    assert retry_after(httpx.Response(503, headers=[(b"Retry-After", value.encode())])) == seconds


@pytest.mark.parametrize(("ahead", "least", "most"), [(60, 50, 60), (-60, 0, 0)])
def test_retry_after_may_be_a_date(ahead, least, most):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    assert least <= retry_after(httpx.Response(503, headers={"Retry-After": date})) <= most


def test_pauses_grow_and_are_drawn_at_random(provider, monkeypatch):
    drawn = []
    monkeypatch.setattr("idempotency.client.retries.random.uniform", lambda *span: drawn.append(span) or 0.0)
    provider.befall(*[Fault.BAD_GATEWAY] * 5)
    ask_sync(provider, retries=Retries(pause=1, longest_pause=4))
    assert drawn == [(0, 1), (0, 2), (0, 4), (0, 4), (0, 4)]


def test_a_new_key_is_one_that_the_server_takes():
    assert parse_key(new_key()) != parse_key(new_key())
    UUID(new_key())


def test_the_key_of_some_facts_is_always_the_same_and_of_others_another():
    assert key_for("refund", 42, "a") == "3c43f854d1091589f39af0c79b280883"
    keys = {key_for(*facts) for facts in [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("abc", "")]}
    assert len(keys) == 5
    assert parse_key(key_for("refund", 42)) == key_for("refund", "42")


@pytest.mark.parametrize("facts", [(), (None,), (1.5,), (True,), (b"a",)], ids=str)
def test_what_is_no_fact_has_no_key(facts):
    with pytest.raises(TypeError, match="fact"):
        key_for(*facts)


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": 1.5}, {"attempts": True}, {"pause": -1}, {"give_up_after": None}],
    ids=str,
)
def test_senseless_retries_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Retries(**options)


def test_without_httpx_it_says_what_to_install():
    code = "import sys; sys.modules['httpx'] = None; import idempotency.client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "[client]" in done.stderr


def test_it_needs_no_settings_of_django():
    code = "from idempotency.client import *; print(key_for('a'))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
