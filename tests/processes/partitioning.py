"""
The command killed after each of its statements, and what each has left of the table.

`python -m tests.processes.partitioning OPTION …` prints [signal, kind of the table, partitions, records,
other tables of its name] of each, as JSON; the last one is let live.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from io import StringIO

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

LEFT = """
    SELECT (SELECT relkind::text FROM pg_class WHERE oid = 'idempotency_record'::regclass),
        (SELECT count(*) FROM pg_inherits WHERE inhparent = 'idempotency_record'::regclass),
        (SELECT count(*) FROM idempotency_record),
        (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'idempotency\\_record\\_%')
"""


def run_until(number: int) -> None:
    """Dies when so many statements have been executed."""
    left = number

    def count(execute, *arguments):
        nonlocal left
        result = execute(*arguments)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with connection.execute_wrapper(count):
        call_command("idempotency_partitions", *sys.argv[1:], stdout=StringIO())


def crash_after(number: int) -> list[object]:
    connection.close()
    pid = os.fork()
    if pid == 0:
        try:
            run_until(number)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    with connection.cursor() as cursor:
        cursor.execute(LEFT)
        return [os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, *cursor.fetchone()]


if __name__ == "__main__":
    crashes = []
    while not crashes or crashes[-1][0]:
        crashes.append(crash_after(len(crashes) + 1))
    json.dump(crashes, sys.stdout)
