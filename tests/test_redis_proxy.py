from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests import services
from tests.conftest import beside_postgresql
from tests.processes.gates import STUCK
from tests.processes.redis_proxy import FaultyRedis

pytestmark = beside_postgresql
SHORT = 0.3
DATABASE = 15

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


def both_at_once(proxy, first):
    """A connection that has sent two requests in one piece."""
    connection = socket.create_connection(("127.0.0.1", proxy.port), STUCK)
    connection.sendall(first + b"*1\r\n$4\r\nECHO\r\n")
    return connection


def test_a_dropped_request_waits_for_the_server_to_answer_an_earlier_one(proxy):
    proxy.fault("drop-request", at=2)
    with both_at_once(proxy, b"*3\r\n$5\r\nBLPOP\r\n$7\r\nnothing\r\n$3\r\n0.2\r\n") as client:
        assert (client.recv(5), client.recv(1)) == (b"*-1\r\n", b"")


def test_a_dropped_request_waits_for_an_earlier_reply_to_be_delivered(proxy):
    proxy.fault("delay-reply", at=1)
    proxy.fault("drop-request", at=2)
    with both_at_once(proxy, b"*1\r\n$4\r\nPING\r\n") as client:
        proxy.wait_until_held()
        proxy.release()
        assert (client.recv(7), client.recv(1)) == (b"+PONG\r\n", b"")


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


def test_released_is_what_the_server_has_answered(proxy, client, name, in_thread):
    proxy.fault("delay-request", at=1)
    answer = in_thread(client.blpop, name, 0.2)
    proxy.wait_until_held()
    [command] = proxy.held
    proxy.release()
    assert command.answered
    assert answer.result(STUCK) is None


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
