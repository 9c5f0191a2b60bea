"""What is stored, in which transaction, and what is refused before."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from idempotency import outbox
from idempotency.decorators import idempotent
from idempotency.exceptions import InvalidKey
from idempotency.models import OutboxMessage
from tests.outbox.conftest import event_ids, send, states
from tests.project.models import Order

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_message_is_stored_with_one_insert_and_the_databases_time():
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        event_id = outbox.send({"order": 17}, routing_key="order.paid", exchange="shop", key="order:17")
    (insert,) = queries.captured_queries
    assert insert["sql"].startswith("INSERT")
    row = OutboxMessage.objects.get()
    assert (row.event_id, row.broker, row.exchange, row.routing_key) == (
        event_id,
        "default",
        "shop",
        "order.paid",
    )
    assert (row.ordering_key, row.state, row.attempts) == ("order:17", OutboxMessage.State.WAITING, 0)
    assert (bytes(row.body), row.content_type, row.content_encoding) == (
        b'{"order":17}',
        "application/json",
        "utf-8",
    )
    assert UUID(event_id).version == 4
    assert row.created_at is not None


def test_what_the_encoder_of_django_knows_is_json():
    with transaction.atomic():
        outbox.send({"at": date(2024, 2, 29), "amount": Decimal("1.10")}, routing_key="q")
    assert json.loads(bytes(OutboxMessage.objects.get().body)) == {"at": "2024-02-29", "amount": "1.10"}


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"\xff\x00", "binary"), ("käse", "utf-8")], ids=["bytes", "text"]
)
def test_bytes_and_texts_go_as_they_are_under_their_type(body, encoding):
    with transaction.atomic():
        outbox.send(body, routing_key="q", content_type="application/x-own")
    row = OutboxMessage.objects.get()
    assert bytes(row.body) == (body if isinstance(body, bytes) else body.encode())
    assert (row.content_type, row.content_encoding) == ("application/x-own", encoding)


def test_a_text_without_a_type_is_a_text_of_json():
    with transaction.atomic():
        outbox.send("paid", routing_key="q")
    assert bytes(OutboxMessage.objects.get().body) == b'"paid"'


def test_outside_of_a_transaction_it_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"within transaction\.atomic\(\)"):
        outbox.send({}, routing_key="q")
    assert not OutboxMessage.objects.exists()


def test_a_transaction_that_rolls_back_publishes_nothing(publisher):
    with pytest.raises(LookupError), transaction.atomic():
        outbox.send({}, routing_key="q")
        raise LookupError
    assert publisher.run().published == 0
    assert event_ids() == []


@pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])
def test_in_a_guards_block_it_goes_into_the_guards_database():
    @idempotent(key="reference", operation="place", using="elsewhere")
    def place(reference):
        outbox.send({"reference": reference}, routing_key="q", event_id=reference)

    place("a")
    assert [row.event_id for row in OutboxMessage.objects.using("elsewhere")] == ["a"]


def test_a_guarded_function_that_fails_sends_nothing_and_its_retry_once(publisher):
    failures = [LookupError()]

    @idempotent(key="reference", operation="place")
    def place(reference):
        Order.objects.create(reference=reference)
        outbox.send({}, routing_key="q", event_id=reference)
        if failures:
            raise failures.pop()

    with pytest.raises(LookupError):
        place("a")
    place("a")
    place("a")
    publisher.run()
    assert event_ids() == ["a"]


DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]
BAD = {
    "no routing key": (ValueError, {"routing_key": ""}),
    "a routing key of lines": (ValueError, {"routing_key": "a\nb"}),
    "a routing key that is too long": (ValueError, {"routing_key": "ä" * 128}),
    "an exchange that is too long": (ValueError, {"exchange": "a" * 256}),
    "an exchange that is no text": (ValueError, {"exchange": None}),
    "no json": (TypeError, {"body": object()}),
    "not a number": (ValueError, {"body": float("nan")}),
    "too deep": (ValueError, {"body": DEEP}),
    "bytes without a type": (TypeError, {"body": b"a"}),
    "json with a type": (TypeError, {"body": {}, "content_type": "application/json"}),
    "an empty type": (ValueError, {"body": b"a", "content_type": ""}),
    "half a surrogate": (ValueError, {"body": "\ud800", "content_type": "text/plain"}),
    "an empty event id": (InvalidKey, {"event_id": ""}),
    "an event id of letters that are not ascii": (InvalidKey, {"event_id": "ä"}),
    "an ordering key that is too long": (InvalidKey, {"key": "a" * 256}),
    "no ordering key": (InvalidKey, {"key": None}),
    "an unknown broker": (ImproperlyConfigured, {"broker": "nobody"}),
    "headers that are no dict": (TypeError, {"headers": ["a"]}),
    "a header's name that is no text": (ValueError, {"headers": {1: "a"}}),
    "a header's name that is too long": (ValueError, {"headers": {"a" * 129: 1}}),
    "a header that is no json": (TypeError, {"headers": {"a": date(2024, 1, 1)}}),
    "a header of too many bits": (ValueError, {"headers": {"a": {"b": [2**63]}}}),
    "a header of half a surrogate": (ValueError, {"headers": {"a": "\ud800"}}),
    "a name within that is too long": (ValueError, {"headers": {"a": {"b" * 256: 1}}}),
    "headers that are too long": (ValueError, {"headers": {"a": "b" * 16384}}),
    "the header of the event": (ValueError, {"headers": {"event_id": "a"}}),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_published_is_refused_before_anything_is_written(bad):
    error, options = BAD[bad]
    with transaction.atomic(), CaptureQueriesContext(connection) as queries, pytest.raises(error):
        outbox.send(**{"body": {}, "routing_key": "q", **options})
    assert len(queries) == 0


def test_an_id_and_a_key_may_be_numbers_and_uuids():
    uuid = uuid4()
    send(17, key=uuid)
    assert states() == {"17": "WAITING"}
    assert OutboxMessage.objects.get().ordering_key == str(uuid)
