"""What every guard promises, whatever its mechanism and medium.

A mechanism's test module subclasses GuardContract and says how its guard is made. Effects are rows of
tests.project.Order, so that "ran" is something the database counts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from threading import Barrier
from uuid import uuid4

import pytest
from django.db import connection, connections, transaction

from idempotency.exceptions import AlreadyCompleted, IdempotencyError
from tests.project.models import Order

REFUSALS = (AlreadyCompleted, IdempotencyError)


class GuardContract:
    frees_on_failure = True
    """Whether an exception of the work makes the key good again: the guard's policy."""

    @cached_property
    def own(self) -> str:
        """Of this test alone: InnoDB locks the gaps beside a key that was deleted a moment ago and comes
        again, and so refuses its neighbours."""
        return uuid4().hex

    def guard(self, key: str) -> AbstractContextManager[object]:
        raise NotImplementedError

    def run(self, key: str = "k", work: Callable[[], object] = lambda: None) -> bool:
        """Whether the guarded block was entered and left normally."""
        try:
            with self.guard(key):
                Order.objects.create(reference=key)
                work()
        except REFUSALS:
            return False
        return True

    def test_it_is_entered_once_per_key(self):
        assert [self.run(), self.run(), self.run()] == [True, False, False]
        assert Order.objects.count() == 1

    def test_keys_are_apart(self):
        assert [self.run("a"), self.run("b"), self.run("A"), self.run("a ")] == [True] * 4

    def test_an_exception_passes_through_and_frees_the_key_if_it_should(self):
        def fail():
            raise LookupError("the work's own")

        with pytest.raises(LookupError):
            self.run(work=fail)
        assert self.run() is self.frees_on_failure

    def test_a_base_exception_does_the_same(self):
        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.run(work=interrupt)
        assert self.run() is self.frees_on_failure

    def test_a_second_caller_is_refused_while_the_first_is_inside(self):
        with ThreadPoolExecutor(1) as pool:
            entered = []
            assert self.run(work=lambda: entered.append(pool.submit(self.in_a_thread).result()))
        assert entered == [False]
        assert Order.objects.count() == 1

    def test_of_many_at_once_one_gets_in(self):
        barrier = Barrier(8)

        def contend():
            barrier.wait(30)
            return self.in_a_thread()

        with ThreadPoolExecutor(8) as pool:
            won = [future.result() for future in [pool.submit(contend) for _ in range(8)]]
        assert won.count(True) == 1
        assert Order.objects.count() == 1

    def test_another_key_gets_in_meanwhile(self):
        with ThreadPoolExecutor(1) as pool:
            entered = []
            self.run("a", work=lambda: entered.append(pool.submit(self.in_a_thread, "b").result()))
        assert entered == [True]

    def test_it_cannot_be_entered_from_inside_under_its_own_key(self):
        entered = []
        assert self.run(work=lambda: entered.append(self.run()))
        assert entered == [False]
        assert Order.objects.count() == 1

    def in_a_thread(self, key: str = "k") -> bool:
        try:
            return self.run(key)
        finally:
            connections.close_all()


class OneWriterOnSQLite:
    """For guards that hold a transaction open around the work: SQLite has one writer at a time."""

    def test_a_second_caller_is_refused_while_the_first_is_inside(self):
        self.one_writer_at_a_time()
        super().test_a_second_caller_is_refused_while_the_first_is_inside()

    def test_another_key_gets_in_meanwhile(self):
        self.one_writer_at_a_time()
        super().test_another_key_gets_in_meanwhile()

    def one_writer_at_a_time(self):
        if connection.vendor == "sqlite":
            pytest.skip("SQLite has one writer at a time")


class UnderRepeatableRead:
    """Runs a contract under another isolation level than Django's own."""

    level = "repeatable read"

    @pytest.fixture(autouse=True)
    def isolation(self):
        connection.close()
        options = connection.settings_dict["OPTIONS"]
        before = dict(options)
        options["isolation_level"] = self.level if connection.vendor == "mysql" else self.number()
        yield
        connection.close()
        options.clear()
        options.update(before)

    def number(self):
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        return IsolationLevel[self.level.upper().replace(" ", "_")]

    def test_the_level_is_what_the_test_says(self):
        shown = (
            "@@tx_isolation" if connection.vendor == "mysql" else "current_setting('transaction_isolation')"
        )
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SELECT {shown}")
            assert cursor.fetchone()[0].lower().replace("-", " ") == self.level
