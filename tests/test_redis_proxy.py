from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests import services
from tests.processes.gates import STUCK
from tests.processes.redis_proxy import FaultyRedis, Incomplete, value_end

SHORT = 0.3
DATABASE = 15
VALUES = [
    b"+OK\r\n",
    b":-1\r\n",
    *(b"_\r\n", b"#t\r\n", b",3.25\r\n", b"(12345678901234567890\r\n"),
    *(b"$0\r\n\r\n", b"$-1\r\n", b"*0\r\n", b"*-1\r\n"),
    b"$6\r\na\r\n+b\n\r\n",
    b"!5\r\nERR x\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"|1\r\n+ttl\r\n:3\r\n*1\r\n:1\r\n",
]

EVERY_TYPE = """
redis.setresp(3)
return {1, 'text', false, true, {double=3.5}, {map={a=1, b={2, 3}}}, {set={a=true}},
        {big_number='12345678901234567890'}, {verbatim_string={format='txt', string='x\\r\\ny'}}, {}}
"""


@pytest.fixture(autouse=True)
def server():
    if reason := services.missing("redis"):
        (pytest.fail if services.CI else pytest.skip)(reason)
    return services.HOST, services.redis.port


@pytest.fixture
def proxy(server):
    with FaultyRedis(*server) as proxy:
        yield proxy


@pytest.fixture
def connect():
    """A client that never retries, and hangs up when told."""
    with ExitStack() as clients:

        def connect(port, timeout=STUCK, **options):
            options = {"socket_timeout": timeout, "retry": Retry(NoBackoff(), 0), **options}
            return clients.enter_context(closing(redis.Redis(port=port, db=DATABASE, **options)))

        yield connect


@pytest.fixture
def client(proxy, connect):
    """Through the proxy, and past the commands with which a connection begins."""
    client = connect(proxy.port)
    client.ping()
    proxy.clear()
    return client


@pytest.fixture
def in_thread():
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


@pytest.fixture
def direct(connect):
    return connect(services.redis.port)


@pytest.fixture
def name(direct):
    name = f"proxy-{uuid4()}"
    yield name
    direct.delete(name)


@pytest.mark.parametrize("value", VALUES)
def test_a_value_ends_where_the_next_begins(value):
    assert value_end(value + b"+next\r\n") == len(value)
    for cut in range(len(value)):
        with pytest.raises(Incomplete):
            value_end(value[:cut])


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_of_every_type_pass_unchanged(proxy, connect, direct, protocol):
    through = connect(proxy.port, protocol=protocol)
    plain = connect(services.redis.port, protocol=protocol)
    assert through.eval(EVERY_TYPE, 0) == plain.eval(EVERY_TYPE, 0)


def test_a_large_value_passes_both_ways(client, name):
    value = b"\r\n$1" * 500_000
    client.set(name, value)
    assert client.get(name) == value


def test_commands_are_listed_from_the_connection_on(proxy, connect, name):
    connect(proxy.port).get(name)
    # Between them redis-py says who it is, differently from version to version.
    assert (proxy.commands[0], proxy.commands[-2:]) == ("HELLO", ["SELECT", "GET"])


def test_each_command_is_a_round_trip(proxy, client, name):
    client.incr(name)
    client.get(name)
    assert proxy.round_trips == 2


def test_a_pipeline_is_one_round_trip(proxy, client, name):
    for _ in range(20):
        with client.pipeline() as pipeline:
            pipeline.incr(name).incr(name).get(name).execute()
    assert proxy.commands == 20 * ["MULTI", "INCRBY", "INCRBY", "GET", "EXEC"]
    assert proxy.round_trips == 20


def test_a_dropped_request_is_not_executed(proxy, client, direct, name):
    proxy.fault("drop-request", at=3)
    client.incr(name)
    client.incr(name)
    with pytest.raises(redis.ConnectionError):
        client.incr(name)
    assert direct.get(name) == b"2"


def test_a_dropped_reply_is_of_an_executed_command(proxy, client, direct, name):
    proxy.fault("drop-reply", at=3)
    client.incr(name)
    client.incr(name)
    with pytest.raises(redis.ConnectionError):
        client.incr(name)
    assert direct.get(name) == b"3"


def test_a_pipeline_is_executed_up_to_a_dropped_request(proxy, client, direct, name):
    proxy.fault("drop-request", at=3)
    with pytest.raises(redis.ConnectionError), client.pipeline(transaction=False) as pipeline:
        pipeline.incr(name).incr(name).incr(name).incr(name).execute()
    assert direct.get(name) == b"2"


def test_a_pipeline_is_executed_behind_a_dropped_reply(proxy, client, direct, name):
    proxy.fault("drop-reply", at=2)
    with pytest.raises(redis.ConnectionError), client.pipeline(transaction=False) as pipeline:
        pipeline.incr(name).incr(name).incr(name).incr(name).execute()
    assert direct.get(name) == b"4"


def test_a_delayed_reply_is_of_an_executed_command(proxy, connect, direct, name):
    proxy.fault("delay-reply", only="incrby", at=1)
    with pytest.raises(redis.TimeoutError):
        connect(proxy.port, SHORT).incr(name)
    assert direct.get(name) == b"1"


def test_a_delayed_reply_comes_when_released(proxy, client, name, in_thread):
    proxy.fault("delay-reply", at=1)
    answer = in_thread(client.incr, name)
    proxy.wait_until_held()
    proxy.release()
    assert answer.result(STUCK) == 1


def test_a_delayed_request_is_executed_after_its_client_gave_up(proxy, connect, direct, name):
    proxy.fault("delay-request", only="INCRBY", at=1)
    client = connect(proxy.port, SHORT)
    with pytest.raises(redis.TimeoutError):
        client.incr(name)
    client.close()
    assert direct.get(name) is None
    proxy.release()
    assert direct.get(name) == b"1"


def test_a_delayed_request_is_overtaken_by_a_later_one(proxy, client, connect, direct, name, in_thread):
    proxy.fault("delay-request", only="APPEND", at=1)
    answer = in_thread(client.append, name, "first")
    proxy.wait_until_held()
    connect(proxy.port).append(name, "second")
    proxy.release()
    assert (direct.get(name), answer.result(STUCK)) == (b"secondfirst", 11)


def test_a_fault_befalls_as_many_as_it_was_told(proxy, client, direct, name):
    proxy.fault("drop-reply", only="INCRBY", at=2, times=2)
    client.incr(name)
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.incr(name)
    client.incr(name)
    assert direct.get(name) == b"4"


def test_a_fault_befalls_every_one_until_mended(proxy, client, direct, name):
    proxy.fault("drop-request", only="INCRBY")
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            client.incr(name)
    proxy.mend()
    assert client.incr(name) == 1


def test_a_fault_counts_the_commands_of_all_connections(proxy, client, connect, name):
    proxy.fault("drop-request", only="INCRBY", at=2)
    other = connect(proxy.port)
    client.incr(name)
    with pytest.raises(redis.ConnectionError):
        other.incr(name)


def test_an_unknown_fault_is_refused(proxy):
    with pytest.raises(ValueError, match="lose-reply"):
        proxy.fault("lose-reply")


def test_a_server_that_is_away_refuses_connections_until_it_is_back(proxy, client, name):
    client.incr(name)
    proxy.away()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            client.incr(name)
    proxy.back()
    assert client.incr(name) == 2


def test_what_is_held_back_is_lost_when_the_server_goes_away(proxy, client, direct, name, in_thread):
    proxy.fault("delay-request", at=1)
    answer = in_thread(client.incr, name)
    proxy.wait_until_held()
    proxy.away()
    proxy.release()
    assert isinstance(answer.exception(STUCK), redis.ConnectionError)
    assert direct.get(name) is None
