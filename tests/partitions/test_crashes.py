"""The command killed after any of its statements: what it was at is done as a whole, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from idempotency.models import IdempotencyRecord
from idempotency.partitions.table import name_of
from tests.guards.test_records import complete
from tests.partitions.conftest import period, put_into, sql
from tests.processes import ROOT, environment

pytestmark = [pytest.mark.crash, pytest.mark.django_db(transaction=True)]
KILLED = 9


def crashes(*options):
    """See tests.processes.partitioning."""
    command = [sys.executable, "-m", "tests.processes.partitioning", *options]
    env = environment(SERVED_PARTITIONS="yes")
    printed = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True, timeout=200)
    *killed, last = json.loads(printed.stdout)
    assert {signal for signal, *_ in killed} == {KILLED}
    return [tuple(left) for _, *left in killed], tuple(last[1:])


def test_a_conversion_that_was_killed_has_changed_nothing(plain):
    complete("kept")
    killed, last = crashes("--convert")
    assert len(killed) > 30
    assert set(killed) == {("r", 0, 1, 0)}
    assert last == ("p", 6, 1, 6)


def test_of_a_rotation_that_was_killed_each_partition_is_there_or_not_and_no_record_is_lost(afresh):
    complete("open")
    IdempotencyRecord.objects.update(state=IdempotencyRecord.State.UNKNOWN)
    put_into(-9)
    for days in (2, 3):
        sql(f"DROP TABLE {name_of(period(days))}")
    killed, last = crashes()
    assert {kind for kind, *_ in killed} == {"p"}
    assert {records for _, _, records, _ in killed} == {1}
    assert all(partitions == tables for _, partitions, _, tables in killed)
    assert last == ("p", 5, 1, 5)
