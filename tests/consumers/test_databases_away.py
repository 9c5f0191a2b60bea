"""Which errors say that a database was away, and so nothing about the message that met with them."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from idempotency.consumers.outages import is_away
from tests.processes.accidents import end_session
from tests.project.models import Order
from tests.test_crashes import has_sessions

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    "sql", ["SELECT no_such_column FROM {}", "SELECT 1 FROM no_such_table", "SELECT FROM FROM"]
)
def test_a_statement_that_is_wrong_is_no_outage(sql):
    with pytest.raises(DatabaseError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.format(Order._meta.db_table))
    assert not is_away(caught.value)


@has_sessions
@pytest.mark.psycopg3
def test_a_session_that_has_ended_is_one():
    Order.objects.exists()
    end_session()
    with pytest.raises(DatabaseError) as caught:
        Order.objects.exists()
    assert is_away(caught.value)
    connection.close()


@has_sessions
@pytest.mark.psycopg3
def test_a_server_that_is_not_there_is_one():
    other = connection.copy()
    other.settings_dict = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": "1"}
    with pytest.raises(DatabaseError) as caught:
        other.ensure_connection()
    assert is_away(caught.value)
