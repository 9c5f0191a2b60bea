"""Eight processes with one id at once."""

from __future__ import annotations

from uuid import uuid4

import pytest

from idempotency.unique_ids import unique_ids
from tests.processes.programs import told_to_contenders
from tests.project.models import Order

pytestmark = [
    pytest.mark.race,
    pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"]),
]


@pytest.mark.parametrize("on_failure", ["discard", "keep"])
def test_of_eight_processes_one_handles_the_id(medium, on_failure):
    id = str(uuid4())
    told = told_to_contenders("unique-id", medium, id, on_failure)
    assert told.count("ran") == 1
    assert {*told} <= {"ran", "duplicate", "conflict"}
    assert Order.objects.count() == 1
    assert id in unique_ids(medium)
