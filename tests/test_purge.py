import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from idempotency.fingerprints import Fingerprint
from idempotency.keys import ScopedKey
from idempotency.models import IdempotencyRecord
from idempotency.purging import Purge
from idempotency.records import RecordGuard
from idempotency.responses import BodyState, StoredResponse

pytestmark = pytest.mark.django_db(transaction=True)

State = IdempotencyRecord.State
HOUR = timedelta(hours=1)
ALICE = ("auth.user", "42")


def build(key, *, expires=HOUR, age=HOUR, principal=ALICE, **fields):
    scoped = ScopedKey(principal, "POST orders/", key)
    return IdempotencyRecord(
        key_digest=scoped.key_digest,
        scope=scoped.scope,
        principal=scoped.principal_digest,
        key=key,
        operation=scoped.operation,
        fingerprint=bytes(17),
        created_at=timezone.now() - age,
        expires_at=timezone.now() + expires,
        **{"state": State.COMPLETED, "status": 201, "headers": '{"ETag":"1"}', "body": b"{}", **fields},
    )


def keep(*keys, **fields):
    return IdempotencyRecord.objects.bulk_create([build(key, **fields) for key in keys])


def expire(*keys, **fields):
    return keep(*keys, expires=-HOUR, **fields)


def left():
    return set(IdempotencyRecord.objects.values_list("key", flat=True))


def purge(*args):
    output = StringIO()
    call_command("purge_idempotency", *args, stdout=output)
    return output.getvalue().strip()


@pytest.fixture
def neighbour():
    """Another session, in a transaction of its own; ours waits for no lock longer than two seconds."""
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip(f"{connection.display_name} has no SKIP LOCKED")
    impatience = {"mysql": "innodb_lock_wait_timeout = 2", "postgresql": "lock_timeout = '2s'"}
    with connection.cursor() as cursor:
        cursor.execute(f"SET SESSION {impatience[connection.vendor]}")
    other = connection.copy()
    other.set_autocommit(False)
    yield other
    other.rollback()
    other.close()
    connection.close()


def lock(neighbour, record):
    with neighbour.cursor() as cursor:
        cursor.execute("SELECT id FROM idempotency_record WHERE id = %s FOR UPDATE", (record.pk,))


def operate(key):
    try:
        with RecordGuard(ScopedKey(ALICE, "POST orders/", key), Fingerprint(b""), using="default") as guard:
            guard.complete(StoredResponse(201))
    finally:
        connection.close()


def no_sleep(seconds):
    pass


class Clock:
    """Each look at it takes a second."""

    now = 0

    def __call__(self):
        self.now += 1
        return self.now


def test_expired_records_are_deleted_and_live_ones_stay():
    expire("old-1", "old-2")
    keep("live")
    assert purge() == "2 records deleted in database 'default'."
    assert left() == {"live"}


def test_running_and_unknown_records_stay_however_old():
    expire("running", state=State.RUNNING)
    expire("unknown", state=State.UNKNOWN)
    purge()
    assert left() == {"running", "unknown"}


def test_a_dry_run_counts_and_changes_nothing():
    expire("old-1", "old-2")
    keep("live", age=3 * HOUR)
    said = purge("--dry-run", "--drop-bodies-after", "2h")
    assert said == "2 records to delete, 1 response to drop in database 'default'."
    assert left() == {"old-1", "old-2", "live"}
    assert bytes(IdempotencyRecord.objects.get(key="live").body) == b"{}"


def test_records_go_in_batches_of_the_size_asked_for():
    expire(*(f"old-{number}" for number in range(5)))
    seen = []
    assert Purge(
        "default", batch_size=2, on_progress=lambda counts: seen.append(counts["deleted"])
    ).delete_expired()
    assert seen == [2, 4, 5]


def test_records_that_expired_together_all_go():
    together = timezone.now() - HOUR
    records = [build(f"old-{number}") for number in range(7)]
    for record in records:
        record.expires_at = together
    IdempotencyRecord.objects.bulk_create(records)
    purge("--batch-size", "2")
    assert not left()


def test_each_batch_commits_by_itself():
    expire(*(f"old-{number}" for number in range(4)))

    def look(counts):
        assert not connection.in_atomic_block

    Purge("default", batch_size=1, on_progress=look).delete_expired()
    assert not left()


def test_when_the_time_is_over_the_rest_is_left_and_said():
    expire("old-1", "old-2", "old-3")
    run = Purge("default", batch_size=1, seconds=2, clock=Clock(), sleep=no_sleep)
    assert not run.delete_expired()
    assert 0 < len(left()) < 3


def test_live_traffic_has_the_database_to_itself_after_each_batch():
    expire("old-1", "old-2")
    pauses = []

    def sleep(seconds):
        assert not connection.in_atomic_block
        pauses.append(seconds)

    Purge("default", batch_size=1, sleep=sleep).delete_expired()
    assert len(pauses) == 2


def test_a_rest_ends_when_the_time_is_over():
    expire("old-1", "old-2")
    pauses = []
    Purge("default", batch_size=1, seconds=0.000001, sleep=pauses.append).delete_expired()
    assert not pauses


def test_a_batch_that_takes_long_makes_the_next_one_smaller():
    expire(*(f"old-{number}" for number in range(600)))
    seen = []
    run = Purge("default", batch_size=400, clock=Clock(), sleep=no_sleep)
    run.on_progress = lambda counts: seen.append(counts["deleted"])
    run.delete_expired()
    assert seen == [400, 600]
    assert run.pace.size == 100


@pytest.mark.parametrize("state", IdempotencyRecord.DONE)
def test_no_batch_is_sorted_out_of_all_that_expired(state):
    if connection.vendor == "sqlite":
        pytest.skip("its planner is not asked for a plan here")
    rows = Purge("default").expired_by_state()[state].order_by("expires_at")
    plan = explained(rows.values_list("pk", "expires_at")[:1000])
    assert "Sort" not in plan
    assert "filesort" not in plan


def explained(rows):
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        sql, parameters = rows.query.sql_with_params()
        cursor.execute(f"EXPLAIN {sql}", parameters)
        plan = str(cursor.fetchall())
    connection.close()
    return plan


def test_a_command_that_leaves_rows_exits_with_one():
    expire("old-1", "old-2")
    with pytest.raises(CommandError, match="rows are left") as stopped:
        purge("--max-seconds", "0.000001", "--batch-size", "1")
    assert stopped.value.returncode == 1


def test_time_that_is_over_at_the_last_row_is_no_failure():
    expire("old")
    assert "1 record deleted" in purge("--max-seconds", "0.000001")


def test_old_responses_are_dropped_and_their_operations_still_count():
    keep("old", age=3 * HOUR)
    keep("young", age=HOUR)
    assert "0 records deleted, 1 response dropped" in purge("--drop-bodies-after", "2h")
    old = IdempotencyRecord.objects.get(key="old")
    assert (old.body, old.headers, old.body_state, old.status) == (None, "", BodyState.DROPPED, 201)
    assert IdempotencyRecord.objects.get(key="young").body_state == BodyState.STORED


def test_responses_are_dropped_in_batches():
    keep(*(f"old-{number}" for number in range(5)), age=3 * HOUR)
    run = Purge("default", batch_size=2)
    assert run.drop_bodies(2 * HOUR)
    assert run.counts["dropped"] == 5


def test_one_principals_completed_records_are_erased_live_ones_too(monkeypatch):
    monkeypatch.setattr("idempotency.purging.WINDOW", 2)
    keep("live", "live-2", "live-3")
    expire("old")
    keep("of-bob", principal=("auth.user", "43"))
    keep("running", state=State.RUNNING)
    said = purge("--scope", "auth.User:42", "--batch-size", "1")
    assert "4 records deleted, 1 unfinished (running or outcome unknown) and left" in said
    assert left() == {"of-bob", "running"}


def test_erasing_leaves_what_expired_of_others():
    expire("of-bob", principal=("auth.user", "43"))
    assert "0 records deleted" in purge("--scope", "auth.user:42")
    assert left() == {"of-bob"}


def test_erasing_can_be_rehearsed():
    keep("live")
    assert "1 record to delete" in purge("--scope", "auth.user:42", "--dry-run")
    assert left() == {"live"}


@pytest.mark.parametrize("batch_size", ["1", "2", "1000"])
def test_an_expired_row_that_somebody_holds_is_left_without_waiting(neighbour, batch_size):
    held, *_ = expire("held", "old-1", "old-2", "old-3")
    lock(neighbour, held)
    assert "3 records deleted, 1 in use and left" in purge("--batch-size", batch_size)
    assert left() == {"held"}


def test_a_response_that_somebody_holds_is_left_without_waiting(neighbour):
    held, *_ = keep("held", "old-1", "old-2", age=3 * HOUR)
    lock(neighbour, held)
    assert "2 responses dropped, 1 in use and left" in purge("--drop-bodies-after", "2h")


def test_erasing_fails_while_somebody_holds_a_row(neighbour):
    held, *_ = keep("held", "free")
    lock(neighbour, held)
    with pytest.raises(CommandError, match="run the command again"):
        purge("--scope", "auth.user:42")
    assert left() == {"held"}


def test_operations_go_on_while_a_batch_is_open(neighbour, monkeypatch):
    expire("old-1", "old-2")
    write = Purge._hold_and_write

    def operate_meanwhile(*args):
        written = write(*args)
        with ThreadPoolExecutor() as thread:
            thread.submit(operate, "new").result()
        return written

    monkeypatch.setattr(Purge, "_hold_and_write", operate_meanwhile)
    purge()
    assert left() == {"new"}


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--batch-size", "0"], "takes 1 to 10000"),
        (["--batch-size", "10001"], "takes 1 to 10000"),
        (["--max-seconds", "0"], "above 0"),
        (["--max-seconds", "nan"], "above 0"),
        (["--database", "nowhere"], "takes one of default"),
        (["--drop-bodies-after", "7"], "such as 30m"),
        (["--drop-bodies-after", "0h"], "such as 30m"),
        (["--drop-bodies-after", "P1Y"], "such as 30m"),
        (["--drop-bodies-after", "99999999999999d"], "such as 30m"),
        (["--scope", "42"], "KIND:ID"),
        (["--scope", "auth.user:42", "--drop-bodies-after", "1h"], "without --drop-bodies-after"),
    ],
)
def test_a_bad_argument_is_refused_with_what_to_give(arguments, advice):
    expire("old")
    with pytest.raises(CommandError, match=re.escape(advice)):
        purge(*arguments)
    assert left() == {"old"}


@pytest.mark.parametrize("age", ["7200s", "120m", "2h", "PT2H", "P0DT2H"])
def test_an_age_can_be_written_in_several_ways(age):
    keep("old", age=3 * HOUR)
    keep("young", age=HOUR)
    assert "1 response dropped" in purge("--drop-bodies-after", age)


def test_a_database_that_fails_is_a_message():
    with connection.schema_editor() as editor:
        editor.alter_db_table(IdempotencyRecord, "idempotency_record", "hidden")
    try:
        with pytest.raises(CommandError, match=r"Database 'default' failed: .*migrate"):
            purge()
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(IdempotencyRecord, "hidden", "idempotency_record")


def test_progress_is_shown_on_a_terminal_only():
    expire("old-1", "old-2")
    assert "\r" not in purge("--batch-size", "1")


def test_a_terminal_sees_the_progress():
    class Terminal(StringIO):
        def isatty(self):
            return True

    expire("old-1", "old-2")
    terminal = Terminal()
    call_command("purge_idempotency", "--batch-size", "1", stdout=terminal)
    assert terminal.getvalue().startswith("\r1 record deleted\r2 records deleted\r")
