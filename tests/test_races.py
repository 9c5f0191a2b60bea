"""Many processes at once, over HTTP, against a real server of several processes and threads."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import call_command
from django.db import connection

from idempotency.models import IdempotencyRecord
from tests.processes.gates import Gate
from tests.processes.server import Server
from tests.project.models import Order, Product
from tests.settings import VENDOR

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]

not_sqlite = pytest.mark.skipif(VENDOR == "sqlite", reason="SQLite has one write lock: writers take turns")
mariadb_only = pytest.mark.skipif(VENDOR != "mariadb", reason="is about InnoDB")
postgresql_only = pytest.mark.skipif(VENDOR not in ("postgresql", "pgbouncer"), reason="is about PostgreSQL")

PLAIN = pytest.param({}, id="plain")
ATOMIC = pytest.param({"SERVED_ATOMIC": "yes"}, id="ATOMIC_REQUESTS")
REPEATABLE = pytest.param({"SERVED_ISOLATION": "repeatable read"}, id="REPEATABLE READ", marks=not_sqlite)
SERIALIZABLE = pytest.param({"SERVED_ISOLATION": "serializable"}, id="SERIALIZABLE", marks=postgresql_only)
MYSQL = pytest.param({"SERVED_AS_MYSQL": "yes"}, id="MySQL", marks=mariadb_only)
REPEATABLE_MYSQL = pytest.param(
    {"SERVED_AS_MYSQL": "yes", "SERVED_ISOLATION": "repeatable read"},
    id="MySQL, REPEATABLE READ",
    marks=mariadb_only,
)
ATOMIC_REPEATABLE = pytest.param(
    {"SERVED_ATOMIC": "yes", "SERVED_ISOLATION": "repeatable read"},
    id="ATOMIC_REQUESTS, REPEATABLE READ",
)
ATOMIC_SERIALIZABLE = pytest.param(
    {"SERVED_ATOMIC": "yes", "SERVED_ISOLATION": "serializable"},
    id="ATOMIC_REQUESTS, SERIALIZABLE",
    marks=postgresql_only,
)
# SERIALIZABLE may give up on any transaction, whatever the keys.
WITHOUT_CHANCE = [PLAIN, ATOMIC, REPEATABLE, MYSQL, REPEATABLE_MYSQL]
EVERY_WAY = [*WITHOUT_CHANCE, SERIALIZABLE]


def served(*ways):
    """Each of these tests against a server of each way; pytest groups them, so that it starts once."""
    return pytest.mark.parametrize("server", ways, indirect=True)


@pytest.fixture(scope="module")
def server(request, django_db_setup, tmp_path_factory):
    options = getattr(request, "param", {})
    with Server(tmp_path_factory.mktemp("server") / "log", **options) as server:
        yield server


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture
def in_background():
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def keys(number):
    return [f"key-{index}" for index in range(number)]


def orders():
    return Counter(Order.objects.values_list("reference", flat=True))


def age_records(expected):
    """Past their retention, by the only clock that counts."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE idempotency_record SET expires_at = created_at")
        assert cursor.rowcount == expected


def assert_one_response_per_key(answers, expected, refusals=True):
    """Each key was won by one request, and every other had its answer or a refusal."""
    by_key = defaultdict(list)
    for answer in answers:
        by_key[answer.key].append(answer)
    assert sorted(by_key) == sorted(expected)
    for of_key in by_key.values():
        answered = [answer for answer in of_key if not answer.refused]
        assert {answer.status for answer in answered} == {201}
        assert len({answer.response for answer in answered}) == 1
        assert [answer.replayed for answer in answered].count(False) == 1
        assert refusals or len(answered) == len(of_key)


def assert_replays(server, path, expected):
    answers = server.storm(path, keys=expected, processes=1, repeats=1)
    assert [answer.key for answer in answers if answer.status == 201 and answer.replayed] == expected


@pytest.mark.psycopg3
@pytest.mark.pgbouncer
@served(PLAIN)
def test_of_identical_requests_at_once_one_has_an_effect(server):
    answers = server.storm("/race/", keys=keys(50), processes=8, repeats=8)
    assert len(answers) == 50 * 8 * 8
    assert_one_response_per_key(answers, keys(50))
    assert orders() == dict.fromkeys(keys(50), 1)
    assert_replays(server, "/race/", keys(50))
    assert orders().total() == IdempotencyRecord.objects.count() == 50


@served(*EVERY_WAY[1:])
def test_one_has_an_effect_however_the_database_is_used(server):
    answers = server.storm("/race/", keys=keys(10), processes=8, repeats=4)
    assert_one_response_per_key(answers, keys(10))
    assert orders() == dict.fromkeys(keys(10), 1)
    assert_replays(server, "/race/", keys(10))


@served(PLAIN, REPEATABLE, SERIALIZABLE, MYSQL, REPEATABLE_MYSQL)
def test_who_waits_gets_the_response_and_no_refusal(server):
    answers = server.storm("/waiting-race/", keys=keys(10), processes=8, repeats=2)
    assert_one_response_per_key(answers, keys(10), refusals=False)
    assert orders() == dict.fromkeys(keys(10), 1)


@not_sqlite
@pytest.mark.pgbouncer
@served(*EVERY_WAY)
def test_a_duplicate_is_refused_while_the_first_is_still_at_work(server, gate, in_background):
    first = in_background(server.post, "/race/", {"reference": "a"}, "key", gate.headers)
    gate.wait_for(1)
    duplicates = [server.post("/race/", {"reference": "a"}, "key", gate.headers) for _ in range(4)]
    assert not first.done()
    assert all(duplicate.refused for duplicate in duplicates)
    assert gate.nobody_else
    gate.release()
    assert first.result().status == 201
    assert server.post("/race/", {"reference": "a"}, "key").response == first.result().response
    assert orders() == {"a": 1}


@not_sqlite
@pytest.mark.pgbouncer
@served(*WITHOUT_CHANCE)
def test_a_key_held_for_long_holds_up_no_other_key(server, gate, in_background):
    held = in_background(server.post, "/race/", {"reference": "held"}, "held", gate.headers)
    gate.wait_for(1)
    others = [server.post("/race/", {"reference": key}, key) for key in keys(20)]
    assert [answer.status for answer in others] == [201] * 20
    assert not held.done()
    gate.release()
    assert held.result().status == 201


@not_sqlite
@served(PLAIN, ATOMIC, ATOMIC_REPEATABLE, ATOMIC_SERIALIZABLE)
def test_a_request_that_looked_before_the_first_was_done_does_not_repeat_it(server, gate, in_background):
    """Its snapshot is the older one: neither a lookup nor a lock tells it, only the unique index."""
    late = in_background(server.post, "/race/", {"reference": "a"}, "key", gate.early_headers)
    gate.wait_for(1)
    first = server.post("/race/", {"reference": "a"}, "key")
    assert first.status == 201
    gate.release()
    assert late.result().refused or late.result().response == first.response
    assert orders() == {"a": 1}
    assert server.post("/race/", {"reference": "a"}, "key").response == first.response


@served(*WITHOUT_CHANCE)
def test_different_keys_at_once_are_never_refused(server):
    answers = server.storm("/race/", keys=keys(20), processes=8, repeats=1, apart=True)
    assert Counter(answer.status for answer in answers) == {201: 160}
    assert orders() == dict.fromkeys((answer.key for answer in answers), 1)


@served(*EVERY_WAY)
def test_an_expired_record_gives_way_to_one_new_effect(server):
    server.storm("/race/", keys=keys(10), processes=1, repeats=1)
    age_records(10)
    answers = server.storm("/race/", keys=keys(10), processes=8, repeats=2)
    assert_one_response_per_key(answers, keys(10))
    assert orders() == dict.fromkeys(keys(10), 2)


@served(PLAIN)
def test_a_purge_beside_live_traffic_makes_nothing_fail(server):
    server.storm("/race/", keys=keys(30), processes=1, repeats=1)
    age_records(30)
    with ThreadPoolExecutor(1) as pool:
        over = threading.Event()
        purging = pool.submit(purge_until, over)
        try:
            answers = server.storm("/race/", keys=keys(30), processes=8, repeats=2)
        finally:
            over.set()
        purging.result()
    assert_one_response_per_key(answers, keys(30))
    assert orders() == dict.fromkeys(keys(30), 2)


def purge_until(over):
    while not over.is_set():
        call_command("purge_idempotency", batch_size=3, verbosity=0)
    connection.close()


# Conflicts inside the handler


@pytest.fixture
def two_products(db):
    return [Product.objects.create(name=name, stock=9).pk for name in ("first", "second")]


def transfer(products, reference, **options):
    return {"products": products, "reference": reference, **options}


def stocks():
    return list(Product.objects.order_by("pk").values_list("stock", flat=True))


@not_sqlite
@served(PLAIN, ATOMIC)
@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("swallow", [False, True], ids=["", "swallowed"])
def test_who_loses_a_deadlock_is_told_conflict_and_may_retry(
    server, gate, in_background, two_products, nested, swallow
):
    bodies = {
        "there": transfer(two_products, "there", nested=nested, swallow=swallow),
        "back": transfer(two_products[::-1], "back", nested=nested, swallow=swallow),
    }
    calls = [in_background(server.post, "/transfers/", bodies[key], key, gate.headers) for key in bodies]
    gate.wait_for(2)
    gate.release()
    winner, loser = sorted((call.result() for call in calls), key=lambda answer: answer.status)
    assert winner.status == 201
    assert loser.refused
    assert orders() == {winner.key: 1}
    assert stocks() == [8, 8]
    assert server.post("/transfers/", bodies[loser.key], loser.key).status == 201
    assert orders() == {"there": 1, "back": 1}
    assert stocks() == [7, 7]


@mariadb_only
@served(PLAIN, ATOMIC)
@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("swallow", [False, True], ids=["", "swallowed"])
def test_who_waits_too_long_for_a_row_is_told_conflict_and_may_retry(
    server, gate, in_background, two_products, nested, swallow
):
    first, second = two_products
    late = transfer([first, second], "late", impatient=True, nested=nested, swallow=swallow)
    holder = transfer([second, second], "holder")
    held = in_background(server.post, "/transfers/", holder, "holder", gate.headers)
    gate.wait_for(1)
    assert server.post("/transfers/", late, "late").refused
    assert orders() == {}
    gate.release()
    assert held.result().status == 201
    assert stocks() == [9, 7]
    assert server.post("/transfers/", late, "late").status == 201
    assert orders() == {"holder": 1, "late": 1}
    assert stocks() == [8, 6]
