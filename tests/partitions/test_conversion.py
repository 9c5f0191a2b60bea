"""A plain table becomes one with partitions, with all that is in it."""

from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, models

from idempotency.exceptions import AlreadyCompleted
from idempotency.models import IdempotencyRecord
from idempotency.responses import StoredResponse
from tests.conftest import in_a_thread
from tests.guards.test_leases import lease_guard
from tests.guards.test_records import complete, record_guard
from tests.partitions.conftest import convert, names, partitions, period, sql, told_by

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("plain")]


def kind():
    return sql("SELECT relkind::text FROM pg_class WHERE oid = 'idempotency_record'::regclass")[0][0]


def test_it_keeps_every_record_and_replays_it():
    complete(result="kept")
    before = IdempotencyRecord.objects.values().get()
    assert convert() == ["idempotency_record in 'default' has partitions."]
    assert kind() == "p"
    assert IdempotencyRecord.objects.values().get() == before
    with pytest.raises(AlreadyCompleted) as done, record_guard():
        pass
    assert done.value.record.response.result == "kept"


def test_a_record_goes_into_the_period_of_now_from_then_on():
    complete("before")
    convert()
    complete("after")
    assert dict(sql("SELECT idempotency_key, period FROM idempotency_record")) == {
        "before": 0,
        "after": period(),
    }


def test_there_are_partitions_for_now_and_for_as_many_periods_ahead_as_are_set():
    convert()
    assert len(names() - {"legacy", "default"}) == 4
    assert len(names()) == 6


def test_an_id_is_never_given_a_second_time():
    complete("first")
    last = IdempotencyRecord.objects.get().pk
    IdempotencyRecord.objects.all().delete()
    convert()
    complete("second")
    assert IdempotencyRecord.objects.get().pk > last


def test_the_public_keeps_what_it_was_granted():
    sql("GRANT SELECT, INSERT ON idempotency_record TO PUBLIC")
    convert()
    granted = "SELECT has_{}_privilege('pg_monitor', '{}', '{}')"
    assert sql(granted.format("table", "idempotency_record", "INSERT"))[0][0]
    assert not sql(granted.format("table", "idempotency_record", "DELETE"))[0][0]
    assert sql(granted.format("sequence", "idempotency_record_id_seq", "USAGE"))[0][0]


def test_it_is_refused_where_it_was_done_already():
    convert()
    with pytest.raises(CommandError, match="it has partitions already"):
        convert()


def test_it_is_refused_where_rows_refer_to_records():
    convert_refused_after(
        "CREATE TABLE refers (record_id bigint REFERENCES idempotency_record)",
        "would lose: foreign key refers_record_id_fkey of refers",
        "DROP TABLE refers",
    )


def test_it_is_refused_where_a_view_would_go_on_reading_the_old_table():
    convert_refused_after(
        "CREATE VIEW reads AS SELECT id FROM idempotency_record", "view or rule reads", "DROP VIEW reads"
    )


def convert_refused_after(statement, why, undo):
    sql(statement)
    try:
        with pytest.raises(CommandError, match=why):
            convert()
        assert kind() == "r"
    finally:
        sql(undo)


def test_it_is_refused_without_the_setting(settings):
    settings.IDEMPOTENCY_PARTITIONS = None
    with pytest.raises(CommandError, match="IDEMPOTENCY_PARTITIONS is not set"):
        partitions("--convert")


def test_without_it_a_plain_table_is_an_error_that_says_what_to_do():
    with pytest.raises(CommandError, match="--convert gives it some"):
        partitions()


def test_a_table_in_use_is_left_as_it_is():
    with record_guard("held"):
        told = in_a_thread(lambda: told_by("--convert", "--attempts=2"))
    assert told.startswith("Not converted: the table was in use at 2 attempts of 100 ms each")
    assert kind() == "r"


def test_a_claim_of_before_that_holds_the_table_is_completed_before_it():
    """Also by a process without the setting: it has looked, so nothing is converted until it is done."""
    with record_guard("held") as guard:
        guard.complete(StoredResponse.from_result("done"))
    convert()
    with pytest.raises(AlreadyCompleted), record_guard("held"):
        pass


def test_a_lease_of_before_is_completed_after_it():
    with lease_guard() as guard:
        guard._transaction.roll_back()
        convert()
        with guard._transaction.opened():
            guard.complete(StoredResponse.from_result("done"))
    with pytest.raises(AlreadyCompleted), lease_guard():
        pass


def test_migrations_may_add_and_drop_columns_and_indexes_afterwards():
    complete()
    convert()
    field = models.SmallIntegerField(null=True)
    field.set_attributes_from_name("added")
    index = models.Index(fields=["operation"], name="added_index")
    with connection.schema_editor() as editor:
        editor.add_field(IdempotencyRecord, field)
        editor.add_index(IdempotencyRecord, index)
    assert sql("SELECT added FROM idempotency_record") == [(None,)]
    with connection.schema_editor() as editor:
        editor.remove_index(IdempotencyRecord, index)
        editor.remove_field(IdempotencyRecord, field)
        editor.remove_index(IdempotencyRecord, IdempotencyRecord._meta.indexes[0])
        editor.add_index(IdempotencyRecord, IdempotencyRecord._meta.indexes[0])


def test_a_purge_deletes_from_all_partitions():
    complete("before")
    convert()
    complete("after")
    IdempotencyRecord.objects.update(expires_at="2020-01-01T00:00Z")
    call_command("purge_idempotency", verbosity=0)
    assert not IdempotencyRecord.objects.exists()
