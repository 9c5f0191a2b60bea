"""Commands on shards: each database in turn, whatever becomes of the others."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from kombu.transport import memory

from idempotency.consumers import consumer as consumers
from idempotency.consumers import idempotent_consumer
from idempotency.database import DatabaseNow
from idempotency.management.databases import Purges
from idempotency.models import (
    IdempotencyRecord,
    OperationRun,
    OutboxMessage,
    ParkedEvent,
    Shard,
    ShardSlot,
)
from tests.shards.rows import BOTH, PK, SLOT_OF, State, begun, keep, row
from tests.test_purge import Clock

pytestmark = [
    pytest.mark.django_db(databases=BOTH, transaction=True),
    pytest.mark.usefixtures("shards"),
]
ACTING = ["purge_idempotency", "complete_idempotency", "publish_outbox"]


@pytest.fixture(autouse=True)
def brokers(settings):
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "memory://"}}
    yield
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()


def command(*arguments):
    """What it says, and why it failed."""
    out, failure = StringIO(), ""
    try:
        call_command(*arguments, stdout=out, stderr=out)
    except CommandError as error:
        failure = str(error)
    return out.getvalue(), failure


def counts(model):
    return [model.objects.using(alias).count() for alias in BOTH]


def expired(*, pk=PK):
    for alias in BOTH:
        keep(alias, f"{alias}-{pk}", pk=pk, state=State.COMPLETED)


@pytest.fixture
def broken():
    """``broken(model)``: its table is gone on the first shard."""
    hidden = []

    def hide(model):
        with connections["default"].schema_editor() as editor:
            editor.alter_db_table(model, model._meta.db_table, "hidden")
        hidden.append(model)

    yield hide
    for model in hidden:
        with connections["default"].schema_editor() as editor:
            editor.alter_db_table(model, "hidden", model._meta.db_table)


def test_each_shard_is_purged_and_reported():
    expired()
    assert command("purge_idempotency") == (
        "1 record deleted in database 'default'.\n1 record deleted in database 'elsewhere'.\n",
        "",
    )
    assert counts(IdempotencyRecord) == [0, 0]


def test_one_shard_is_purged_where_it_is_named():
    expired()
    assert command("purge_idempotency", "--database", "elsewhere")[1] == ""
    assert counts(IdempotencyRecord) == [1, 0]


def test_a_shard_that_fails_does_not_keep_the_others_from_being_purged(broken):
    keep("elsewhere", state=State.COMPLETED)
    broken(IdempotencyRecord)
    said, failure = command("purge_idempotency")
    assert "default: Database 'default' failed" in said
    assert "1 record deleted in database 'elsewhere'" in said
    assert failure == "Not everything was done in default: see the reasons above."


def test_a_shard_that_cannot_be_reached_does_not_keep_the_others_from_being_purged(monkeypatch):
    expired()
    connections["default"].close()
    nowhere = {"HOST": "127.0.0.1", "PORT": "1", "NAME": "/nowhere/at/all"}
    monkeypatch.setattr(
        connections["default"], "settings_dict", {**connections["default"].settings_dict, **nowhere}
    )
    said, failure = command("purge_idempotency")
    monkeypatch.undo()
    assert "default: Database 'default' failed" in said
    assert "in default:" in failure
    assert counts(IdempotencyRecord) == [1, 0]


def test_time_is_shared_by_the_shards():
    purges = Purges(BOTH, 1, 10, Clock())
    assert (purges.on("default").seconds, purges.on("elsewhere").seconds) == (9 / 2, 6)
    assert Purges(BOTH, 1, None).on("default").seconds is None


def test_time_that_is_over_is_said_of_each_shard():
    for pk in (1, 2):
        expired(pk=pk)
    said, failure = command("purge_idempotency", "--max-seconds", "0.000001", "--batch-size", "1")
    assert failure == "Not everything was done in default, elsewhere: see the reasons above."
    assert "elsewhere: The time is over and rows are left" in said
    # However short the time, none is the one that nobody comes to.
    assert counts(IdempotencyRecord) == [1, 1]


def test_one_principal_is_erased_on_all_shards():
    expired()
    assert command("purge_idempotency", "--scope", "auth.user:42")[1] == ""
    assert counts(IdempotencyRecord) == [0, 0]


def test_nobody_is_erased_while_rows_are_being_moved():
    expired()
    ShardSlot.objects.using("elsewhere").filter(slot=8).update(frozen_at=DatabaseNow())
    assert "Slots 8 are frozen" in command("purge_idempotency", "--scope", "auth.user:42")[1]
    assert counts(IdempotencyRecord) == [1, 1]


def test_an_erasure_during_which_a_move_began_is_not_taken_for_done(monkeypatch):
    expired()

    def freeze(purge, *arguments, **options):
        ShardSlot.objects.using("elsewhere").filter(slot=8).update(frozen_at=DatabaseNow())
        return True

    monkeypatch.setattr("idempotency.purging.Purge.erase", freeze)
    assert "Slots 8 are frozen" in command("purge_idempotency", "--scope", "auth.user:42")[1]


def test_what_was_abandoned_on_each_shard_is_gone_on_with():
    for alias in BOTH:
        begun(alias)
        OperationRun.objects.using(alias).update(arguments="")
    said, failure = command("complete_idempotency")
    assert "1 freed in database 'default'" in said
    assert "1 freed in database 'elsewhere'" in said
    assert failure == ""
    assert counts(IdempotencyRecord) == [0, 0]


def test_a_shard_that_fails_does_not_keep_the_others_from_being_completed(broken):
    begun("elsewhere")
    OperationRun.objects.using("elsewhere").update(arguments="")
    broken(IdempotencyRecord)
    said, failure = command("complete_idempotency")
    assert "1 freed in database 'elsewhere'" in said
    assert failure == "Not everything was done in default: see the reasons above."


@pytest.mark.parametrize(
    ("fields", "arguments"), [({}, ""), ({"state": State.RUNNING}, None)], ids=["not-begun", "without-a-run"]
)
def test_nothing_is_said_of_an_operation_whose_slot_is_frozen(fields, arguments):
    if arguments is None:
        keep("elsewhere", fence=1, **fields)
    else:
        begun("elsewhere")
        OperationRun.objects.using("elsewhere").update(arguments=arguments)
    ShardSlot.objects.using("elsewhere").filter(slot=8).update(frozen_at=DatabaseNow())
    assert "taken" in command("complete_idempotency")[0]
    assert IdempotencyRecord.objects.using("elsewhere").get().state == State.RUNNING


def test_a_row_that_was_left_behind_by_a_move_is_a_failure_of_its_own():
    keep("elsewhere", slot=0, state=State.RUNNING, fence=1)
    keep("default", state=State.RUNNING, fence=1)
    said, failure = command("complete_idempotency")
    assert "Refused by this process has version 1" in said
    assert failure == "Not everything was done in elsewhere: see the reasons above."
    states = [IdempotencyRecord.objects.using(alias).get().state for alias in BOTH]
    assert states == [State.UNKNOWN, State.RUNNING]


def test_parked_events_of_each_shard_are_listed():
    for alias in BOTH:
        row(ParkedEvent, alias)
    said, failure = command("parked_events")
    for alias in BOTH:
        assert f"e-{alias} to to-{alias}" in said
        assert f"1 waiting, 1 overdue in database '{alias}'" in said
    assert failure == "Not everything was done in default, elsewhere: see the reasons above."


def test_the_messages_of_each_shard_are_published():
    for alias in BOTH:
        row(OutboxMessage, alias)
    assert command("publish_outbox") == (
        "1 message published from database 'default'.\n1 message published from database 'elsewhere'.\n",
        "",
    )


def test_a_shard_that_fails_does_not_keep_the_messages_of_others(broken):
    row(OutboxMessage, "elsewhere")
    broken(OutboxMessage)
    said, failure = command("publish_outbox")
    assert "1 message published from database 'elsewhere'" in said
    assert failure == "Not everything was done in default: see the reasons above."


@pytest.mark.parametrize("name", ACTING)
def test_a_database_that_there_is_not_is_refused(name):
    assert "There is no database 'nowhere'" in command(name, "--database", "nowhere")[1]


@pytest.mark.parametrize("name", [*ACTING, "consume"])
def test_nothing_is_done_under_another_map_than_the_shards(name, settings, monkeypatch):
    monkeypatch.setattr(consumers, "_registered", {})
    idempotent_consumer("of-commands", key="event", delivery="transactional")(lambda event: None)
    settings.IDEMPOTENCY_CONSUMERS = {"of-commands": {}}
    expired()
    Shard.objects.using("elsewhere").update(version=2, fingerprint=bytes(16))
    failure = command(name, *(["of-commands"] if name == "consume" else []))[1]
    assert "elsewhere: has version 2, and the settings 1." in failure
    assert counts(IdempotencyRecord) == [1, 1]


def test_slots_are_where_these_tests_take_them_to_be(shards):
    assert all(shards.owners[slot] == alias for alias, slot in SLOT_OF.items())
