"""What befalls a process in the middle of an operation."""

from __future__ import annotations

import os
import signal
import time

from django.db import connection

STUCK = 10


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def halt():
    """As a machine that is moved, or out of memory; somebody lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


END_SESSION = {
    "postgresql": (
        "SELECT pg_terminate_backend(%s)",
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s",
    ),
    "mysql": ("KILL %s", "SELECT count(*) FROM information_schema.processlist WHERE id = %s"),
}


def end_session():
    """Have the database server end this process's session, where it has one by now."""
    if (raw := connection.connection) is None:
        return
    session = [raw.thread_id() if connection.vendor == "mysql" else raw.info.backend_pid]
    end, count = END_SESSION[connection.vendor]
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute(end, session)
        deadline = time.monotonic() + STUCK
        cursor.execute(count, session)
        while cursor.fetchone() != (0,):
            assert time.monotonic() < deadline, "the session goes on"
            cursor.execute(count, session)
    other.close()
    ended.append(True)


ACCIDENTS = {"kill": kill, "end-session": end_session}
ended = []
