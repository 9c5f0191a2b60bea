"""Eight processes on all shards, while slots are frozen, moved by hand as the docs say, and let in again."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tests.processes.shards import STUCK, Shards, kill, move_as_documented, shard_databases
from tests.settings import VENDOR

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default"]),
    pytest.mark.skipif(VENDOR not in ("postgresql", "mariadb"), reason="several databases on one server"),
]
WORKERS = 8
ALIASES = ["shard_a", "shard_b", "shard_c", "shard_d"] if VENDOR == "postgresql" else ["shard_a", "shard_b"]
SLOTS = 32
MOVED = [0, 1, 2, 3, 5]
ORDER = "reference, owner, note"
RECORDS = "SELECT encode(key_digest, 'hex'), encode(scope, 'hex'), slot, state FROM idempotency_record"
if VENDOR == "mariadb":
    RECORDS = "SELECT hex(key_digest), hex(scope), slot, state FROM idempotency_record"
COMPLETED = 2


def owners_in(version):
    """Slots are dealt out in turn; the second version has those that are moved on the last shard."""
    owners = [ALIASES[slot * len(ALIASES) // SLOTS] for slot in range(SLOTS)]
    if version == 2:
        owners = [ALIASES[-1] if slot in MOVED else owner for slot, owner in enumerate(owners)]
    return owners


def shard_map(version):
    owners = owners_in(version)
    places = {alias: ", ".join(str(s) for s in range(SLOTS) if owners[s] == alias) for alias in ALIASES}
    return {"VERSION": version, "SLOTS": SLOTS, "MAP": places, "MODELS": ["project"]}


@pytest.fixture
def shards(tmp_path):
    with shard_databases(ALIASES) as names:
        shards = Shards(names, tmp_path)
        shards.command(shard_map(1), "shards", "adopt")
        try:
            yield shards
        finally:
            shards.close()


def furthest(folder):
    return max((int(file.read_text() or 0) for file in folder.iterdir() if file.name.isdigit()), default=-1)


def wait_for_round(folder, number):
    deadline = time.monotonic() + STUCK
    while furthest(folder) < number:
        assert time.monotonic() < deadline, "nobody gets on"
        time.sleep(0.02)


def stop(shards, workers):
    (shards.folder / "stop").write_text(str(furthest(shards.folder) + 2))
    said = [json.loads(worker.communicate(timeout=STUCK)[0] or "null") for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers)
    return said


def require_once(shards, said, version):
    """Each key has one order and one record, both on the shard of its slot, and one answer."""
    keys, refused = {key for each in said for key in each["answers"]}, Counter()
    for each in said:
        refused.update(each["refused"])
    owners = [
        next(a for a, s in shard_map(version)["MAP"].items() if str(slot) in s.split(", "))
        for slot in range(SLOTS)
    ]
    orders, records = {}, []
    for alias in ALIASES:
        for reference, owner, slot in shards.ask(alias, f"SELECT {ORDER} FROM project_order"):
            assert owners[int(slot)] == alias, (reference, slot, alias)
            assert reference not in orders, f"{reference} was done twice"
            orders[reference] = owner
        for *identity, slot, state in shards.ask(alias, RECORDS):
            assert (owners[slot], state) == (alias, COMPLETED)
            records.append(tuple(identity))
    assert keys == set(orders)
    assert len(records) == len(set(records)) == len(orders)
    for each in said:
        assert {key: orders[key] for key in each["answers"]} == each["answers"]
    return refused


def test_each_key_is_done_once_on_its_shard(shards):
    workers = [shards.start(shard_map(1), number) for number in range(WORKERS)]
    wait_for_round(shards.folder, 2)
    said = stop(shards, workers)
    require_once(shards, said, 1)
    counts = [shards.ask(alias, "SELECT count(*) FROM project_order")[0][0] for alias in ALIASES]
    assert min(counts) > 0


def test_each_key_is_done_once_while_slots_are_moved(shards):
    moving = ",".join(map(str, MOVED))
    source, target = ALIASES[0], ALIASES[-1]
    old = [shards.start(shard_map(1), number) for number in range(WORKERS)]
    wait_for_round(shards.folder, 1)
    shards.command(shard_map(1), "shards", "freeze", moving)
    condition = f"slot IN ({moving})"
    before = shards.ask(source, f"SELECT count(*) FROM idempotency_record WHERE {condition}")
    move_as_documented(shards.names[source], shards.names[target], MOVED, ORDER)
    shards.command(shard_map(2), "shards", "adopt")
    # One by one, some of them in the middle of what they do.
    new = []
    for number, worker in enumerate(old):
        kill(worker)
        new.append(shards.start(shard_map(2), WORKERS + number))
    assert "unfreeze" not in shards.command(shard_map(2), "shards", "unfreeze", moving, fails=True)
    shards.command(shard_map(2), "shards", "retire")
    # Nobody has written meanwhile what would be lost now.
    assert shards.ask(source, f"SELECT count(*) FROM idempotency_record WHERE {condition}") == before
    for table in ("idempotency_record", "idempotency_token", "idempotency_unique_id"):
        shards.ask(source, f"DELETE FROM {table} WHERE {condition}")
    slots = "', '".join(map(str, MOVED))
    shards.ask(source, f"DELETE FROM project_order WHERE note IN ('{slots}')")
    shards.command(shard_map(2), "shards", "unfreeze", moving)
    said = stop(shards, new)
    # Who was killed has told nobody what he did; those after him were answered by it.
    assert require_once(shards, said, 2)["SlotFrozen"] > 0


def test_a_process_of_the_old_map_is_refused_once_it_is_retired(shards):
    moving = ",".join(map(str, MOVED))
    shards.command(shard_map(1), "shards", "freeze", moving)
    shards.command(shard_map(2), "shards", "adopt")
    shards.command(shard_map(1), "shards", "check")
    shards.command(shard_map(2), "shards", "retire")
    shards.command(shard_map(2), "shards", "unfreeze", moving)
    said = shards.command(shard_map(1), "shards", "check", fails=True)
    assert "has version 2, and the settings 1" in said
    assert "slots 0-3, 5" in said
    late = shards.start(shard_map(1), 1)
    deadline = time.monotonic() + 3
    while late.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert late.poll() is None, "it has run"
    assert [shards.ask(alias, "SELECT count(*) FROM project_order") for alias in ALIASES] == [[(0,)]] * len(
        ALIASES
    )


def test_operations_that_can_be_gone_on_with_are_moved_with_their_journals(shards):
    source, target = ALIASES[0], ALIASES[-1]
    digest = "'\\x{}'" if VENDOR == "postgresql" else "x'{}'"
    for alias, key, slot in ((source, "aa", MOVED[0]), (source, "bb", 4), (target, "cc", SLOTS - 1)):
        add_run(shards, alias, digest.format(key * 16), slot)
    move_as_documented(shards.names[source], shards.names[target], MOVED, ORDER)
    pairs = "SELECT slot, journal FROM idempotency_record JOIN idempotency_operation_run ON id = record_id"
    assert sorted(shards.ask(target, pairs)) == [(MOVED[0], str(MOVED[0])), (SLOTS - 1, str(SLOTS - 1))]


def add_run(shards, alias, digest, slot):
    shards.ask(
        alias,
        "INSERT INTO idempotency_record (key_digest, scope, principal, idempotency_key, operation, "
        f"fingerprint, state, headers, body_state, created_at, expires_at, fence, slot) VALUES ("
        f"{digest}, {digest}, {digest}, '', '', {digest}, 1, '', 0, now(), now(), 1, {slot})",
    )
    retention = "interval '1 day'" if VENDOR == "postgresql" else "1"
    shards.ask(
        alias,
        "INSERT INTO idempotency_operation_run (record_id, name, steps_digest, is_answer, retention, "
        "principal_kind, principal_id, arguments, journal, attempts, last_error) SELECT id, 'ship', "
        f"key_digest, true, {retention}, '', '', '', '{slot}', 1, '' "
        f"FROM idempotency_record WHERE slot = {slot}",
    )
