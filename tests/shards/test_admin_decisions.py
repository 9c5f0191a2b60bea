"""Decisions and releases in the admin on shards."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry

from idempotency.database import DatabaseNow
from idempotency.leases.decisions import seen_as
from idempotency.models import IdempotencyRecord, OperationRun, ShardSlot
from tests.shards.rows import BOTH, PK, State, begun, keep
from tests.shards.test_admin import LIST, address, both, operator

__all__ = ["both", "operator"]

pytestmark = [
    pytest.mark.django_db(databases=BOTH, transaction=True),
    pytest.mark.urls("tests.test_admin"),
    pytest.mark.usefixtures("shards"),
]


def of(alias):
    return IdempotencyRecord.objects.using(alias).select_related("run").get()


def state(alias):
    record = of(alias)
    return record.state, record.fence, record.expires_at


def select(client, action, shard="elsewhere", **fields):
    query = f"?shard={shard}" if shard else ""
    return client.post(f"{LIST}{query}", {"action": action, "_selected_action": [PK], **fields})


def release(client, shard="elsewhere", seen=None):
    fields = {
        "seen": [f"{PK}:{seen or seen_as(of('elsewhere'))}"],
        "reason": "It was not.",
        "confirmed": "yes",
    }
    return select(client, "release_records", shard, **fields)


def decide(client, alias="elsewhere", **fields):
    fields = fields or {"decision": "returned", "result": "7"}
    return client.post(address(alias, page="decide"), {"seen": seen_as(of(alias)), "reason": "So.", **fields})


def messages(client, response):
    return client.get(response.url, follow=True).content.decode()


def freeze(alias, slot):
    ShardSlot.objects.using(alias).filter(slot=slot).update(frozen_at=DatabaseNow())


def test_a_database_that_is_no_shard_is_not_found(operator, both, settings):
    settings.IDEMPOTENCY_SHARDS = {"VERSION": 1, "SLOTS": 16, "MAP": {"default": "0-15"}}
    for page in ("change", "history", "delete", "decide"):
        assert operator.get(address("elsewhere", page=page)).status_code == 404
        assert operator.post(address("elsewhere", page=page)).status_code in (403, 404)
    assert operator.get(LIST, {"shard": "elsewhere"}).url == f"{LIST}?shard=default"
    assert release(operator).status_code == 404
    assert IdempotencyRecord.objects.using("elsewhere").exists()


def test_a_decision_is_about_the_shard_of_its_page(operator, both):
    before = state("default")
    assert decide(operator).url == address("elsewhere")
    assert of("elsewhere").response.result == 7
    assert state("default") == before


def test_the_page_of_a_decision_shows_the_run_of_its_shard(operator):
    for alias in BOTH:
        begun(alias)
    page = operator.get(address("elsewhere", page="decide")).content.decode()
    assert "&quot;elsewhere&quot;" in page
    assert "&quot;default&quot;" not in page
    before = of("default").run.journal
    decide(operator, decision="call-not-done")
    assert of("default").run.journal == before
    assert of("elsewhere").run.journal != before


def test_what_was_seen_of_another_shards_row_decides_nothing(operator):
    keep("default", fence=3), keep("elsewhere", fence=4)
    fields = {"seen": seen_as(of("default")), "reason": "So.", "decision": "returned", "result": "7"}
    operator.post(address("elsewhere", page="decide"), fields)
    assert [of(alias).state for alias in BOTH] == [State.UNKNOWN, State.UNKNOWN]


def test_the_action_leads_to_the_decision_of_the_lists_shard(operator, both):
    assert select(operator, "decide_record").url == address("elsewhere", page="decide")
    assert select(operator, "decide_record", "default").url == address("default", page="decide")


def test_a_release_is_about_the_shard_of_its_list(operator, both):
    asked = select(operator, "release_records")
    assert "key-on-elsewhere" in asked.content.decode()
    release(operator)
    assert not IdempotencyRecord.objects.using("elsewhere").exists()
    assert IdempotencyRecord.objects.using("default").exists()


def test_a_release_takes_the_run_of_its_shard_along(operator):
    for alias in BOTH:
        begun(alias)
    release(operator)
    assert [OperationRun.objects.using(alias).count() for alias in BOTH] == [1, 0]


@pytest.mark.parametrize("shard", ["", "nowhere"])
def test_an_action_whose_address_names_no_shard_does_nothing(operator, both, shard):
    assert release(operator, shard).status_code == 404
    assert [of(alias).pk for alias in BOTH] == [PK, PK]


def test_the_log_says_of_which_shard_it_is(operator, both):
    decide(operator)
    entry = LogEntry.objects.get()
    assert entry.object_id == f"elsewhere:{PK}"
    assert str(entry.object_repr).endswith("on elsewhere")
    assert entry.get_admin_url() == address("elsewhere")
    assert "its result is given" in operator.get(address("elsewhere", page="history")).content.decode()
    assert "its result is given" not in operator.get(address("default", page="history")).content.decode()
    assert address("elsewhere") in operator.get("/admin/").content.decode()


def test_the_log_of_a_release_says_of_which_shard_it_was(operator, both):
    release(operator)
    assert LogEntry.objects.get().object_id == f"elsewhere:{PK}"


def test_nothing_is_decided_in_a_slot_that_is_frozen(operator, both):
    freeze("elsewhere", 8)
    before = state("elsewhere")
    shown = messages(operator, decide(operator))
    assert "Nothing was decided. The slot of" in shown
    assert "is frozen" in shown
    assert state("elsewhere") == before
    assert not LogEntry.objects.exists()


def test_nothing_is_released_in_a_slot_that_is_frozen(operator, both):
    freeze("elsewhere", 8)
    shown = messages(operator, release(operator))
    assert "Nothing was released. The slot of" in shown
    assert IdempotencyRecord.objects.using("elsewhere").exists()
    assert not LogEntry.objects.exists()


def test_a_slot_that_is_frozen_on_another_shard_alone_keeps_nobody(operator, both):
    freeze("default", 8)
    decide(operator)
    assert of("elsewhere").state == State.COMPLETED


@pytest.mark.parametrize("act", [decide, release])
def test_a_row_that_was_left_behind_by_a_move_is_not_changed(operator, act):
    keep("elsewhere", slot=0)
    before = state("elsewhere")
    shown = messages(operator, act(operator))
    assert "and the slot on &#x27;default&#x27;" in shown
    assert state("elsewhere") == before
    assert not LogEntry.objects.exists()
