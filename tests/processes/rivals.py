"""What tests of several who want the same row share: isolation levels, processes, and how to read the log."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, connections

from idempotency.models import StatusTransition
from tests.processes.programs import printed_by
from tests.settings import VENDOR

STUCK = 30
"""Seconds after which whoever waits for the others gives up: only a broken test gets there."""

READ_COMMITTED = pytest.param("read committed", id="READ COMMITTED")
REPEATABLE_READ = pytest.param("repeatable read", id="REPEATABLE READ")
# SQLite has one writer at a time, and no levels.
LEVELS = [pytest.param("", id="SQLite")] if VENDOR == "sqlite" else [READ_COMMITTED, REPEATABLE_READ]

at_each_level = pytest.mark.parametrize("isolation", LEVELS)
"""For tests whose rivals are processes: give ``isolation`` to ``answers()``."""
at_each_level_here = pytest.mark.parametrize("sessions_at", LEVELS, indirect=True)
"""For tests whose rivals are threads: every new connection has the level."""
not_sqlite = pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one write lock: writers take turns")
mariadb_only = pytest.mark.skipif(VENDOR != "mariadb", reason="is about InnoDB")


def answers(module, plan, isolation=""):
    """What the module prints, which runs as processes of their own on this test's database."""
    return json.loads(printed_by(module, given=json.dumps(plan), SERVED_ISOLATION=isolation))


@pytest.fixture
def sessions_at(request, db, monkeypatch):
    if isolation := request.param:
        if VENDOR != "mariadb":
            from django.db.backends.postgresql.psycopg_any import IsolationLevel

            isolation = IsolationLevel[isolation.replace(" ", "_").upper()]
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", isolation)
        connection.close()
    yield request.param
    if isolation:
        connection.close()


@pytest.fixture
def other_session():
    """``other_session(function, …)``: what it returns in another database session, as a future."""

    def run(function, *arguments, **options):
        try:
            return function(*arguments, **options)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        yield lambda function, *arguments, **options: pool.submit(run, function, *arguments, **options)


SOMEBODY_WAITS = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))",
    "mysql": (
        "SELECT count(*) FROM information_schema.innodb_lock_waits JOIN information_schema.innodb_trx "
        "ON trx_id = blocking_trx_id WHERE trx_mysql_thread_id = connection_id()"
    ),
}


def wait_until_somebody_waits():
    """Return when another session waits for a lock that this one has."""
    deadline = time.monotonic() + STUCK
    with connection.cursor() as cursor:
        cursor.execute(SOMEBODY_WAITS[connection.vendor])
        while cursor.fetchone() == (0,):
            assert time.monotonic() < deadline, "nobody waits"
            # InnoDB shows a copy, which is made anew when nobody has looked at it for 0.1 s.
            time.sleep(0.12)
            cursor.execute(SOMEBODY_WAITS[connection.vendor])


def chains():
    """By object, as the log has it: the statuses that one change after the other led through.

    Fails where a change began elsewhere than the one before it ended.
    """
    found = defaultdict(list)
    rows = StatusTransition.objects.order_by("pk")
    for subject, before, after in rows.values_list("object_id", "from_status", "to_status"):
        chain = found[subject]
        assert not chain or chain[-1] == before, f"{subject}: {chain}, then {before} to {after}"
        chain += [after] if chain else [before, after]
    return dict(found)
