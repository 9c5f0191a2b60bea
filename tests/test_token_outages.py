"""Redis away, halted, or unable to write."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager

import pytest
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError

from idempotency import work
from idempotency.exceptions import DuplicateToken, ExpiredToken, StoreUnavailable
from idempotency.tokens import tokens
from tests import services
from tests.conftest import beside_postgresql
from tests.processes.gates import STUCK
from tests.processes.redis_server import RedisServer
from tests.processes.redis_tokens import HOLDER, require_redis, tokens_at
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), beside_postgresql]
SHORT = 0.3
REFUSALS = {
    OutOfMemoryError: ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ReadOnlyError: ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    MasterDownError: ("REPLICAOF 127.0.0.1 1\nCONFIG SET replica-serve-stale-data no", "REPLICAOF NO ONE"),
    # NOREPLICAS, for which redis-py has no class.
    ResponseError: ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
}


@pytest.fixture
def store(proxy, settings):
    with tokens_at(settings, proxy.port) as store:
        yield store


@pytest.fixture(scope="module")
def started():
    require_redis()
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(started):
    """Empty, and in its first state whatever a test has made of it."""
    yield started
    started.kill()
    started.start()


@pytest.fixture
def own_store(server, settings):
    """In the Redis that the test may do anything to."""
    with tokens_at(settings, server.port, timeout=SHORT) as store:
        yield store


def run(token):
    with tokens().consume(token, HOLDER):
        Order.objects.create(reference="run")


def good_once(token):
    """Whether nothing has run with it, and it works now."""
    assert not Order.objects.exists()
    run(token)
    with pytest.raises(DuplicateToken):
        run(token)
    return Order.objects.count() == 1


@contextmanager
def refused_in(seconds):
    started_at = time.monotonic()
    with pytest.raises(StoreUnavailable):
        yield
    assert time.monotonic() - started_at < seconds


def test_while_redis_is_away_nothing_is_issued_consumed_or_run(proxy, store):
    token = store.issue(HOLDER).token
    proxy.away()
    for use in (run, lambda token: store.issue(HOLDER)):
        with pytest.raises(StoreUnavailable):
            use(token)
    proxy.back()
    assert good_once(token)


def test_a_redis_that_was_away_from_the_start_is_used_once_it_is_there(proxy, store):
    proxy.away()
    with pytest.raises(StoreUnavailable):
        store.issue(HOLDER)
    proxy.back()
    assert good_once(store.issue(HOLDER).token)


def test_a_failed_operation_is_given_back_when_redis_is_back(proxy, store):
    token = store.issue(HOLDER).token
    with pytest.raises(LookupError), store.consume(token, HOLDER, on_failure="restore"):
        Order.objects.create(reference="failed")
        proxy.away()
        raise LookupError
    proxy.back()
    assert good_once(token)


def test_a_killed_redis_refuses_at_once_and_works_on_when_started(server, own_store):
    token = own_store.issue(HOLDER).token
    server.kill()
    with refused_in(SHORT + 1):
        run(token)
    server.start()
    # It has kept nothing, and takes no token for a used one.
    with pytest.raises(ExpiredToken):
        run(token)
    assert good_once(own_store.issue(HOLDER).token)


def test_a_halted_redis_is_waited_for_as_long_as_its_timeouts_say(server, own_store):
    token = own_store.issue(HOLDER).token
    server.halt()
    # The attempts, and what they may have consumed is to be given back.
    with refused_in((work.ATTEMPTS + 1) * SHORT + 1):
        run(token)
    with refused_in(SHORT + 1):
        own_store.issue(HOLDER)
    server.go_on()
    assert good_once(token)


@pytest.mark.parametrize("error", REFUSALS)
def test_a_redis_that_cannot_write_is_away(server, own_store, error):
    token = own_store.issue(HOLDER).token
    commands, undo = REFUSALS[error]
    for command in commands.splitlines():
        server.ask(command)
    for use in (run, lambda token: own_store.issue(HOLDER)):
        with pytest.raises(StoreUnavailable) as refusal:
            use(token)
        assert type(refusal.value.__cause__) is error
    server.ask(undo)
    assert good_once(token)


def test_a_redis_that_runs_a_script_for_long_is_away(server, own_store):
    token = own_store.issue(HOLDER).token
    server.ask("CONFIG SET busy-reply-threshold 1")
    with socket.create_connection((services.HOST, server.port), STUCK) as other:
        other.sendall(b"PING\r\n")
        assert other.recv(7) == b"+PONG\r\n"
        other.sendall(b"EVAL 'while true do end' 0\r\n")
        with pytest.raises(StoreUnavailable) as refusal:
            run(token)
        assert str(refusal.value.__cause__).startswith("BUSY ")
        server.ask("SCRIPT KILL")
        assert other.recv(999).startswith(b"-ERR")
    assert good_once(token)
