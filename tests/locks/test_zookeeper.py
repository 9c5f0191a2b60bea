"""What becomes of locks when something becomes of ZooKeeper's sessions, connections and servers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest

pytest.importorskip("kazoo", reason="kazoo is not installed")

from kazoo.client import KazooClient

from idempotency.exceptions import LockLost, StoreUnavailable
from idempotency.locks import lock, sessions
from idempotency.locks.base import Ticket
from idempotency.locks.zookeeper import ROOT
from tests import services
from tests.conftest import available
from tests.locks.conftest import beside_postgresql, wait_until
from tests.processes.cable import Cable
from tests.processes.gates import STUCK
from tests.processes.zookeeper_ensemble import Ensemble

pytestmark = beside_postgresql
LONG = 15.0
"""Seconds that a session lasts where a test is not to be helped by its end."""


@pytest.fixture(scope="module", autouse=True)
def zookeeper():
    available("zookeeper")
    yield
    sessions.disconnect()


@pytest.fixture(scope="module")
def onlooker():
    client = KazooClient(services.zookeeper.hosts)
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
def at(settings):
    """``at(hosts, ttl)``: an alias of this ensemble."""

    def at(hosts, ttl=LONG):
        medium = {"BACKEND": settings.ZOOKEEPER_LOCKS, "LOCATION": hosts, "TTL": timedelta(seconds=ttl)}
        settings.IDEMPOTENCY_LOCKS = {**settings.IDEMPOTENCY_LOCKS, "mine": medium}
        return "mine"

    return at


@pytest.fixture
def cable():
    with Cable(services.zookeeper.port) as cable:
        yield cable
        # Before it is cut for good, and the client goes on trying.
        sessions.disconnect()


@pytest.fixture(scope="module")
def started_ensemble():
    with Ensemble() as ensemble:
        yield ensemble
        sessions.disconnect()


@pytest.fixture
def ensemble(started_ensemble):
    started_ensemble.restore()
    return started_ensemble


def nodes(onlooker, name):
    """Who holds the lock or waits for it."""
    digest = Ticket(name).digest
    parent = f"{ROOT}/{digest[0]:02x}"
    found = onlooker.get_children(parent) if onlooker.exists(parent) else []
    return [f"{parent}/{node}" for node in found if digest.hex() in node]


@contextmanager
def losing(name, alias):
    """A lock that is lost in the block, and whose holder is told so at its end."""
    with pytest.raises(LockLost), lock(name, alias=alias) as held:
        yield held
        wait_until(lambda: held.lost)
        with pytest.raises(LockLost):
            held.check()


def kill_session(held):
    """As the server does when it is over: whoever presents itself as the client may also close it."""
    client = KazooClient(services.zookeeper.hosts, client_id=held.store.session.client.client_id)
    client.start(STUCK)
    client.stop()
    client.close()


def test_a_session_that_is_killed_loses_its_locks(name, at, losses):
    alias = at(services.zookeeper.hosts)
    with losing(name, alias) as held:
        kill_session(held)
    wait_until(lambda: losses == [name])
    with lock(name, alias=alias, wait=STUCK) as held:
        assert not held.lost


def test_a_connection_that_is_cut_loses_its_locks_although_the_session_goes_on(name, at, cable, losses):
    alias = at(f"{services.HOST}:{cable.port}")
    with losing(name, alias) as held:
        session = held.store.session.client.client_id
        cable.cut()
        wait_until(lambda: held.lost)
        cable.mend()
        wait_until(lambda: held.store.session.is_connected)
        assert held.store.session.client.client_id == session
    wait_until(lambda: losses == [name])


def test_whoever_asks_is_told_lost_when_the_connection_goes_meanwhile(name, at, cable):
    def check():
        with pytest.raises(LockLost):
            held.check()
        return True

    with (
        pytest.raises(LockLost),
        lock(name, alias=at(f"{services.HOST}:{cable.port}"), renew_for=0) as held,
        ThreadPoolExecutor(1) as pool,
    ):
        cable.clog()
        asking = pool.submit(check)
        wait_until(lambda: cable.swallowed)
        cable.cut()
        assert asking.result(STUCK)


def test_what_was_left_while_the_server_was_away_is_free_when_it_is_back(name, at, cable, onlooker, losses):
    with losing(name, at(f"{services.HOST}:{cable.port}")) as held:
        cable.cut()
    assert nodes(onlooker, name)
    cable.mend()
    wait_until(lambda: not nodes(onlooker, name))
    # Long before the session would have ended.
    assert held.store.session.is_connected


def test_it_is_not_entered_while_the_server_is_away(name, at, cable, onlooker):
    alias = at(f"{services.HOST}:{cable.port}", ttl=1)
    with lock(f"{name} before", alias=alias) as held:
        pass
    cable.cut()
    with pytest.raises(StoreUnavailable), lock(name, alias=alias):
        pass
    cable.mend()
    # kazoo tries again in its own time.
    wait_until(lambda: held.store.session.is_connected)
    with lock(name, alias=alias):
        assert len(nodes(onlooker, name)) == 1
    assert nodes(onlooker, name) == []


def test_whoever_has_waited_in_vain_leaves_no_node(name, at, holders, onlooker):
    alias = at(services.zookeeper.hosts)
    with lock(name, alias=alias):
        for wait in (0, 0.1):
            waiter = holders.new()
            assert waiter.tell("enter", name=name, alias="zookeeper", wait=wait) == "LockBusy", waiter.says
        assert len(nodes(onlooker, name)) == 1
    assert nodes(onlooker, name) == []


def test_no_parent_is_left_for_each_name(name, at, onlooker):
    alias = at(services.zookeeper.hosts)
    for number in range(20):
        with lock(f"{name} {number}", alias=alias):
            pass
    parents = onlooker.get_children(ROOT)
    assert {len(parent) for parent in parents} == {2}
    assert all(int(parent, 16) < 256 for parent in parents)


def test_a_process_that_was_forked_after_it_was_connected_is_told_what_to_do(name, holders):
    parent = holders.new()
    assert parent.tell("enter", name=name, alias="zookeeper") is None
    child = holders.fork(parent)
    assert child.tell("enter", name=f"{name} child", alias="zookeeper") == "ForkedConnection"
    assert "sessions.disconnect() before it" in child.says
    # That helps afterwards as well, and takes nothing from the parent.
    assert child.tell("disconnect") is None
    assert child.tell("enter", name=f"{name} child", alias="zookeeper") is None, child.says
    assert parent.tell("check") is None
    assert parent.tell("leave") is None


def test_a_process_that_disconnects_before_it_forks_may_go_on(name, holders):
    parent = holders.new()
    assert parent.tell("enter", name=name, alias="zookeeper") is None
    assert parent.tell("leave") is None
    assert parent.tell("disconnect") is None
    child = holders.fork(parent)
    assert child.tell("enter", name=name, alias="zookeeper") is None, child.says
    assert parent.tell("enter", name=name, alias="zookeeper") == "LockBusy"


@pytest.mark.crash
@pytest.mark.parametrize("role", ["follower", "leader"])
def test_locks_work_on_when_a_server_is_killed(name, at, ensemble, role):
    alias = at(ensemble.hosts)
    with lock(name, alias=alias, wait=STUCK):
        pass
    ensemble.kill(ensemble.member(role))

    def works():
        try:
            with lock(name, alias=alias, wait=STUCK) as held:
                held.check()
                return True
        except (LockLost, StoreUnavailable):  # while they hold an election
            return False

    wait_until(works)


@pytest.mark.crash
def test_a_server_that_stands_still_loses_the_locks_that_were_taken_there(name, at, ensemble, losses):
    alias = at(ensemble.hosts, ttl=1)
    with losing(name, alias) as held:
        port = held.store.session.client._connection._socket.getpeername()[1]
        member = next(member for member, own in ensemble.ports.items() if own == port)
        ensemble.halt(member)
        wait_until(lambda: held.lost)
        wait_until(lambda: held.store.session.is_connected)
    ensemble.go_on(member)
    wait_until(lambda: losses == [name])
