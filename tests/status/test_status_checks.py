"""What the system checks say of declarations that cannot work."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.db import connection

from idempotency.checks.statuses import check_ledgers, check_logs, check_statuses
from idempotency.models import LedgerEntry, ParkedEvent, StatusTransition
from idempotency.status import ByRank, BySequence, Park
from idempotency.status.mixins import graph_of
from tests.project.models import Door, ExpressParcel, NumberedParcel, Parcel, Product


@pytest.fixture
def declared(monkeypatch):
    """``declared(model, status_transitions=…)``: the checks' errors about models, with that declaration."""

    def declare(model, **attributes):
        for name, value in attributes.items():
            monkeypatch.setattr(model, name, value)
        graph_of.cache_clear()
        messages = [*check_statuses(), *check_ledgers(), *check_logs()]
        return [(each.id.removeprefix("idempotency."), each.obj, each.msg) for each in messages]

    yield declare
    monkeypatch.undo()
    graph_of.cache_clear()


def test_sound_models_have_no_complaints(declared):
    assert declared(Parcel) == []


def test_the_checks_of_models_are_among_the_projects(declared):
    declared(Parcel, status_lookup="note")
    found = [each.obj for each in run_checks(tags=["idempotency"]) if each.id == "idempotency.E017"]
    assert found == [Parcel]


@pytest.mark.parametrize(
    ("model", "attributes", "number", "said"),
    [
        (Parcel, {"status_field": "no_such"}, "E015", "no field of it"),
        (Parcel, {"status_field": "pk"}, "E015", "no field of it"),
        (Door, {"status_field": "hinge"}, "E015", "a status is a text or an integer"),
        (Parcel, {"status_transitions": {}}, "E015", "declares nothing"),
        (Parcel, {"status_transitions": ["new"]}, "E015", "declares nothing"),
        (Parcel, {"status_transitions": {"new": "packed"}}, "E015", "give a list"),
        (Parcel, {"status_transitions": {"new": 7}}, "E015", "give a list"),
        (Parcel, {"status_transitions": {"new": [7]}}, "E015", "7 in status_transitions is no value"),
        (Parcel, {"status_transitions": {"new": ["x" * 21]}}, "E015", "longer than the field"),
        (Parcel, {"status_transitions": {"packed": ["sent"]}}, "E015", "default 'new' is not in"),
        (Door, {"status_transitions": {1: [4]}}, "E015", "none of the field's choices"),
        (Parcel, {"status_ordering": Park}, "E016", "give an instance of Reject"),
        (Parcel, {"status_ordering": ByRank("new")}, "E016", "packed has no rank"),
        (Parcel, {"status_ordering": Park(timedelta(0))}, "E016", "no timedelta above 0"),
        (Parcel, {"status_ordering": BySequence("note")}, "E016", "no integer field beside the status"),
        (Parcel, {"status_ordering": BySequence("no_such")}, "E016", "no integer field beside the status"),
        (ExpressParcel, {"status_ordering": BySequence("courier")}, "E016", "no integer field"),
        (Parcel, {"status_lookup": "note"}, "E017", "neither the primary key nor unique"),
        (NumberedParcel, {"status_lookup": "no_such"}, "E017", "neither the primary key nor unique"),
        (Parcel, {"status_transitions": {"new": [["packed"]]}}, "E015", "give a list"),
        (Door, {"status_transitions": {1: ["x"]}}, "E015", "no value of a PositiveSmallIntegerField"),
        (Door, {"status_ordering": BySequence("state")}, "E016", "no integer field beside the status"),
        (Product, {"ledger_fields": ()}, "E019", "ledger_fields is ()"),
        (Product, {"ledger_fields": ["id"]}, "E019", "no integer or decimal field"),
        (Product, {"ledger_fields": [["stock"]]}, "E019", "no integer or decimal field"),
        (Product, {"ledger_fields": "stock"}, "E019", "ledger_fields is 'stock'"),
        (Product, {"ledger_fields": ["name"]}, "E019", "no integer or decimal field"),
        (Product, {"ledger_fields": ["no_such"]}, "E019", "no integer or decimal field"),
    ],
)
def test_a_declaration_that_cannot_work_is_an_error_which_names_it(declared, model, attributes, number, said):
    found = declared(model, **attributes)
    assert any((each, obj) == (number, model) and said in text for each, obj, text in found), found


class LogsElsewhere:
    """The models of the project may be written here, the package's own may not."""

    def allow_migrate(self, db, app_label, **hints):
        return app_label != "idempotency"


def test_a_log_that_could_not_commit_with_the_change_is_an_error(declared, settings):
    settings.DATABASE_ROUTERS = ["tests.status.test_status_checks.LogsElsewhere"]
    found = {(number, model) for number, model, _ in declared(Parcel)}
    assert ("E018", Parcel) in found
    assert ("E018", Product) in found


@pytest.mark.skipif(connection.vendor != "mysql", reason="other databases have no engines")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("model", [NumberedParcel, Product, StatusTransition, ParkedEvent, LedgerEntry])
def test_a_table_without_transactions_is_an_error(model):
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} ENGINE = MyISAM")
        try:
            messages = run_checks(tags=["idempotency"], databases=["default"])
        finally:
            cursor.execute(f"ALTER TABLE {table} ENGINE = InnoDB")
    assert [each.id for each in messages if table in each.msg] == ["idempotency.E004"]
