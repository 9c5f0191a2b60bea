"""The guards of messages: the contract, for each kind of delivery."""

from __future__ import annotations

import pytest
from django.db import connection

from idempotency.consumers import Consumer
from tests.guards.contract import GuardContract, UnderRepeatableRead

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
on_sqlite = connection.vendor == "sqlite"


class OneWriterAtATime(GuardContract):
    delivery: str

    def guard(self, key):
        # One that is not registered.
        consumer = Consumer(lambda event: None, "event", name=self.own, delivery=self.delivery)
        return consumer.guard(key)

    @pytest.mark.skipif(on_sqlite, reason="SQLite has one writer at a time")
    def test_another_key_gets_in_meanwhile(self):
        super().test_another_key_gets_in_meanwhile()


class TestTransactional(OneWriterAtATime):
    delivery = "transactional"

    @pytest.mark.skipif(on_sqlite, reason="on SQLite the second caller waits")
    def test_a_second_caller_is_refused_while_the_first_is_inside(self):
        super().test_a_second_caller_is_refused_while_the_first_is_inside()


@pytest.mark.skipif(on_sqlite, reason="SQLite has one isolation level")
class TestTransactionalUnderRepeatableRead(UnderRepeatableRead, TestTransactional):
    pass


class TestTransactionalUnderSerializable(TestTransactionalUnderRepeatableRead):
    level = "serializable"


class TestAtLeastOnce(OneWriterAtATime):
    delivery = "at_least_once"


class TestAtMostOnce(TestAtLeastOnce):
    frees_on_failure = False
    delivery = "at_most_once"
