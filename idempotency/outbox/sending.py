from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from django.core.serializers.json import DjangoJSONEncoder

from idempotency import conf
from idempotency.database import DatabaseNow
from idempotency.keys import digest, valid_id
from idempotency.models import OutboxMessage
from idempotency.nesting import innermost
from idempotency.shards.routing import database_for
from idempotency.transactions import is_within_transaction

JSON, UTF_8, BINARY = "application/json", "utf-8", "binary"
EVENT_ID = "event_id"
"""The header that a consumer tells repetitions by."""
# AMQP 0-9-1: a short string's bytes, the characters of a header's name, and the largest integer.
LONGEST_NAME, LONGEST_HEADER_NAME = 255, 128
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1
# Of all headers as JSON. A broker takes them in one frame, of 128 KiB, where each value may be three times as
# long, and closes the connection on more.
LONGEST_HEADERS = 16 * 1024
# amqp calls itself twice for each level, from a stack that is not known here.
DEEPEST_HEADER = 50


def send(
    body: Any,
    *,
    routing_key: str,
    exchange: str = "",
    key: str | int | UUID = "",
    event_id: str | int | UUID | None = None,
    headers: Mapping[str, Any] | None = None,
    content_type: str | None = None,
    broker: str = "default",
    using: str | None = None,
) -> str:
    """Store a message within the transaction that is open, to be published once that has committed. One
    INSERT; returns the event id.

    It is published at least once, each time under the same event id, which travels as header ``event_id`` and
    as property ``message_id``. Messages of one ``key`` (``"order:17"``) and broker are first published in the
    order in which they were stored: have what the key stands for locked while you store, as a business that
    changes it has anyway, since transactions that run side by side have no order.

    ``body``: anything that DjangoJSONEncoder takes; or bytes or a text, as they are, with ``content_type``.
    ``using``: the database of the open transaction; by default that of the guard whose block this is in, else
    the one that guards use. Raises RuntimeError outside of a transaction there, and TypeError, ValueError,
    InvalidKey or ImproperlyConfigured, before anything is written, for what cannot be published.
    """
    conf.broker(broker)
    database = using or innermost("using") or database_for(OutboxMessage)
    event = valid_id(uuid4() if event_id is None else event_id, "event id")
    ordering_key = valid_id(key, "ordering key") if key != "" else ""
    content, media_type, encoding = encoded(body, content_type)
    message = OutboxMessage(
        event_id=event,
        broker=name("broker", broker),
        exchange=name("exchange", exchange) if exchange != "" else "",
        routing_key=name("routing key", routing_key),
        ordering_key=ordering_key,
        ordering_digest=digest(b"idem-outbox", (broker, ordering_key)) if ordering_key else None,
        headers=encoded_headers(headers or {}),
        content_type=media_type,
        content_encoding=encoding,
        body=content,
        created_at=DatabaseNow(),
    )
    if not is_within_transaction(database):
        raise RuntimeError(
            f"outbox.send() stores the message with what it tells of, and no transaction of {database!r} is "
            "open: call it in a guard's block, or within transaction.atomic(), beside those writes."
        )
    message.save(using=database, force_insert=True)
    return event


def name(what: str, value: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"The {what} must be a text of printable characters, not {value!r}.")
    if len(value.encode()) > LONGEST_NAME:
        raise ValueError(
            f"The {what} is longer than {LONGEST_NAME} bytes, which AMQP does not take: {value!r}."
        )
    return value


def encoded(body: Any, content_type: str | None) -> tuple[bytes, str, str]:
    """Bytes, media type, and encoding as kombu names it."""
    if content_type is not None:
        if not isinstance(body, bytes | str):
            raise TypeError(f"With a content_type the body is bytes or a text, not {type(body).__name__}.")
        is_text = isinstance(body, str)
        content = body.encode() if isinstance(body, str) else body
        return content, name("content type", content_type), UTF_8 if is_text else BINARY
    if isinstance(body, bytes | bytearray | memoryview):
        raise TypeError("A body of bytes needs a content_type, such as 'application/octet-stream'.")
    try:
        text = json.dumps(body, cls=DjangoJSONEncoder, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"The body is no JSON: {error}. Pass plain values, or bytes and their type.") from error
    return text.encode(), JSON, UTF_8


def encoded_headers(headers: Mapping[str, Any]) -> str:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a dict, not {headers!r}.")
    for header in headers:
        if (
            not isinstance(header, str)
            or not 0 < len(header) <= LONGEST_HEADER_NAME
            or not header.isprintable()
        ):
            raise ValueError(
                f"A header's name has 1 to {LONGEST_HEADER_NAME} printable characters, not {header!r}."
            )
        if header == EVENT_ID:
            raise ValueError(f"The header {EVENT_ID!r} is the event's: pass event_id instead.")
    try:
        text = json.dumps(dict(headers), allow_nan=False, separators=(",", ":"))
        refuse_unsendable(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"The headers are no JSON that a broker takes: {error}.") from error
    if len(text) > LONGEST_HEADERS:
        raise ValueError(f"The headers are longer than {LONGEST_HEADERS} characters: have it in the body.")
    return text


def refuse_unsendable(value: Any, depth: int = 0) -> None:
    """What is JSON, and no table of AMQP's. Raises ValueError."""
    if depth > DEEPEST_HEADER:
        raise ValueError(f"they are nested more than {DEEPEST_HEADER} deep")
    if isinstance(value, str):
        value.encode()
    if isinstance(value, int) and not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError(f"{value} has more than 64 bits")
    if isinstance(value, dict) and any(len(name.encode()) > LONGEST_NAME for name in value):
        raise ValueError(f"a name is longer than {LONGEST_NAME} bytes")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_unsendable(item, depth + 1)
