from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from idempotency.client.keys import new_key
from idempotency.client.retries import PATIENT, Exchange, Options, Retries


class IdempotencyTransport(httpx.BaseTransport):
    """For ``httpx.Client(transport=…)``, or ``mounts=`` for some servers only.

    A POST, PATCH, PUT or DELETE that has no key is given one, and is sent again under it after a broken
    connection, a timeout, 502, 503, 504, or 409 with Retry-After. Any other answer, such as a 422, is
    given to the caller at once; so is, in the end, the last answer or error: its ``request`` has the key
    under which the operation may be asked for again.

    Bodies and answers of keyed requests are kept in memory. ``make_key``: for requests that have none.
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | None = None,
        *,
        retries: Retries = PATIENT,
        header: str = "Idempotency-Key",
        make_key: Callable[[], str] = new_key,
    ) -> None:
        self._options = Options(retries, header, make_key)
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(request, self._options)
        # A stream could be sent only once.
        request.read()
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = self._ask(exchange)
            except httpx.TransportError as error:
                outcome = error
            pause = exchange.pause_after(outcome)
            if pause is None:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome
            if isinstance(outcome, httpx.Response):
                outcome.close()
            time.sleep(pause)

    def _ask(self, exchange: Exchange) -> httpx.Response:
        response = self._transport.handle_request(exchange.request)
        if exchange.is_keyed and isinstance(response.stream, httpx.SyncByteStream):
            # An answer that breaks off is as good as none.
            try:
                content = b"".join(response.stream)
            finally:
                response.stream.close()
            response.stream = httpx.ByteStream(content)
        return response

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(kind, error, traceback)


class AsyncIdempotencyTransport(httpx.AsyncBaseTransport):
    """IdempotencyTransport for ``httpx.AsyncClient``."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        retries: Retries = PATIENT,
        header: str = "Idempotency-Key",
        make_key: Callable[[], str] = new_key,
    ) -> None:
        self._options = Options(retries, header, make_key)
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(request, self._options)
        await request.aread()
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = await self._ask(exchange)
            except httpx.TransportError as error:
                outcome = error
            pause = exchange.pause_after(outcome)
            if pause is None:
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome
            if isinstance(outcome, httpx.Response):
                await outcome.aclose()
            await asyncio.sleep(pause)

    async def _ask(self, exchange: Exchange) -> httpx.Response:
        response = await self._transport.handle_async_request(exchange.request)
        if exchange.is_keyed and isinstance(response.stream, httpx.AsyncByteStream):
            try:
                content = b"".join([part async for part in response.stream])
            finally:
                await response.stream.aclose()
            response.stream = httpx.ByteStream(content)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)
