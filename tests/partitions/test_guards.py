"""The contract of every guard that has a record, on a table with partitions."""

from __future__ import annotations

import pytest

from tests.guards import test_consumers, test_leases, test_records
from tests.guards.contract import UnderRepeatableRead

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.psycopg3,
    pytest.mark.pgbouncer,
    pytest.mark.usefixtures("partitioned"),
]


@pytest.fixture(autouse=True, params=["one period", "a boundary after each record"])
def boundary(request, partitioned):
    if request.param != "one period":
        request.getfixturevalue("moving_boundary")


class TestRecordGuard(test_records.TestRecordGuard):
    pass


class TestLeaseGuard(test_leases.TestLeaseGuard):
    pass


class TestLeaseGuardThatMayRunAgain(test_leases.TestLeaseGuardThatMayRunAgain):
    pass


class TestLeaseGuardUnderRepeatableRead(UnderRepeatableRead, test_leases.TestLeaseGuard):
    """Its claim is in no transaction."""


class TestTransactional(test_consumers.TestTransactional):
    pass


class TestAtLeastOnce(test_consumers.TestAtLeastOnce):
    pass


class TestAtMostOnce(test_consumers.TestAtMostOnce):
    pass
