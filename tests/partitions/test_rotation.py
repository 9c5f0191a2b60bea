"""The partitions of the days to come are made, and those of the past dropped; no record that counts is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.core.management import CommandError
from django.db import connection, transaction

from idempotency.exceptions import AlreadyCompleted, OutcomeUnknown
from idempotency.models import IdempotencyRecord, OperationRun
from idempotency.partitions.locked import Patience
from idempotency.partitions.rotation import Rotation, drop
from idempotency.partitions.table import Table
from idempotency.responses import StoredResponse
from tests.conftest import in_a_thread
from tests.guards.test_leases import lease_guard
from tests.guards.test_records import complete, record_guard
from tests.partitions.conftest import PARTITIONS, names, partitions, period, put_into, sql, told_by

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.psycopg3,
    pytest.mark.pgbouncer,
    pytest.mark.usefixtures("afresh"),
]
State = IdempotencyRecord.State
PAST = "2020-01-01T00:00Z"


def expire(*keys, **fields):
    for key in keys:
        complete(key)
    IdempotencyRecord.objects.filter(key__in=keys).update(expires_at=PAST, **fields)


def kept():
    return set(IdempotencyRecord.objects.values_list("key", flat=True))


@pytest.fixture
def without_legacy():
    assert partitions() == ["drop idempotency_record_legacy"]


def test_an_empty_past_is_dropped_and_then_there_is_nothing_to_do(without_legacy):
    assert len(names()) == 5
    assert partitions() == []


def test_periods_to_come_are_made(without_legacy, settings):
    settings.IDEMPOTENCY_PARTITIONS = {**PARTITIONS, "AHEAD": 5}
    assert [line.split("_")[0] for line in partitions()] == ["create idempotency"] * 2
    assert len(names()) == 7


def test_a_past_whose_records_have_all_expired_is_dropped(without_legacy):
    expire("a", "b")
    name = put_into(-2)
    complete("c")
    assert partitions() == [f"drop idempotency_record_{name}"]
    assert (name in names(), kept()) == (False, {"c"})


def test_a_past_with_a_live_record_is_kept_and_it_is_said_until_when(without_legacy):
    complete("live")
    expire("over")
    name = put_into(-1)
    [told] = partitions()
    assert told.startswith(f"keep idempotency_record_{name}, which has records that are live")
    until = IdempotencyRecord.objects.get(key="live").expires_at
    assert f"until {until:%Y-%m-%d %H:%M:%S}" in told
    assert kept() == {"live", "over"}


@pytest.mark.parametrize("state", [State.UNKNOWN, State.RUNNING])
def test_what_nobody_has_settled_goes_on_into_the_period_of_now(without_legacy, state):
    expire("open", state=state)
    expire("over")
    name = put_into(-9)
    before = IdempotencyRecord.objects.filter(key="open").values().get()
    assert partitions() == [f"drop idempotency_record_{name}: 1 unfinished or live records carried over"]
    assert IdempotencyRecord.objects.values().get() == before
    assert sql("SELECT period FROM idempotency_record") == [(period(),)]
    with pytest.raises(OutcomeUnknown), record_guard("open"):
        pass


def test_whoever_works_under_a_lease_completes_a_record_that_was_carried_over(without_legacy):
    with lease_guard() as guard:
        guard._transaction.roll_back()
        put_into(-9)
        partitions()
        with guard._transaction.opened():
            guard.complete(StoredResponse.from_result("done"))
    with pytest.raises(AlreadyCompleted), lease_guard():
        pass


def test_many_that_nobody_has_settled_stay_where_they_are(without_legacy):
    expire("a", "b", state=State.UNKNOWN)
    name = put_into(-9)
    [done] = Rotation(Patience("default"), most_carried=1).run()
    assert done.text == (
        f"keep idempotency_record_{name}, which has records that are live or unfinished, "
        "until their outcomes are settled"
    )
    assert name in names()


def test_a_record_that_was_taken_up_since_it_was_looked_at_is_kept(without_legacy):
    """The look without the lock was over; the one under it counts."""
    complete("taken up again")
    put_into(-9)
    with transaction.atomic(), connection.cursor() as cursor:
        [past] = [partition for partition in Table(cursor).partitions if partition.start < period()]
        assert drop(cursor, past, 0) == "not yet, a record of it is in use again"
    assert kept() == {"taken up again"}


def test_the_runs_of_dropped_records_go_with_them_and_no_others(without_legacy):
    run = partial(
        OperationRun.objects.create, steps_digest=bytes(16), retention=timedelta(hours=1), principal_id="1"
    )
    expire("over", state=State.FINISHED)
    expire("open", state=State.UNKNOWN)
    for record in IdempotencyRecord.objects.all():
        run(record=record)
    put_into(-9)
    partitions()
    assert [run.record.key for run in OperationRun.objects.select_related("record")] == ["open"]


def test_records_of_a_period_without_a_partition_are_kept_and_purged_one_by_one(without_legacy):
    sql(f"DROP TABLE {today()}")
    complete("a")
    [told] = partitions()
    assert told.startswith(
        f"cannot create {today()}: records of its period are in idempotency_record_default"
    )
    with pytest.raises(AlreadyCompleted), record_guard("a"):
        pass
    IdempotencyRecord.objects.all().delete()
    assert partitions() == [f"create {today()}"]


def today():
    with connection.cursor() as cursor:
        starts = {partition.start: partition.name for partition in Table(cursor).partitions}
        return starts.get(period()) or f"idempotency_record_{missing()}"


def missing():
    return sql("SELECT to_char(to_timestamp(%s) AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MISS')", period())[0][0]


def test_a_dry_run_only_says_what_would_be_done():
    before = names()
    assert partitions("--dry-run") == ["would drop idempotency_record_legacy"]
    assert names() == before


def test_another_period_counts_from_then_on(without_legacy, settings):
    complete("before")
    settings.IDEMPOTENCY_PARTITIONS = {"PERIOD": timedelta(hours=1), "AHEAD": 2}
    assert "change the period to 1:00:00" in partitions()
    complete("after")
    [[start]] = sql("SELECT period FROM idempotency_record WHERE idempotency_key = 'after'")
    assert start % 3600 == 0
    assert sql("SELECT extract(epoch FROM now())::bigint - %s < 3600", start) == [(True,)]
    with pytest.raises(AlreadyCompleted), record_guard("before"):
        pass


def test_while_the_table_is_in_use_live_traffic_goes_on_and_the_command_gives_up():
    refused, completed = [], []

    def drop_in_vain():
        refused.append(told_by("--attempts=3"))
        return True

    def work_beside():
        """Each waits behind an attempt for its lock_timeout at most."""
        sql("SET lock_timeout = '5s'")
        for number in range(20):
            complete(f"beside {number}")
            completed.append(number)

    with ThreadPoolExecutor(2) as pool, record_guard("held"):
        futures = [pool.submit(in_a_thread, work) for work in (drop_in_vain, work_beside)]
        assert [future.result() for future in futures] == [True, None]
    assert "run the command again" in refused[0]
    assert len(completed) == 20
    assert "legacy" in names()
    assert partitions() == ["drop idempotency_record_legacy"]


@pytest.mark.parametrize("option", ["--attempts=0", "--lock-timeout=0", "--longest=-1"])
def test_an_option_that_makes_no_sense_is_refused(option):
    with pytest.raises(CommandError, match="takes a number above 0"):
        partitions(option)


def test_a_database_that_is_not_there_is_refused():
    with pytest.raises(CommandError, match="There is no database 'nowhere'"):
        partitions("--database=nowhere")
