from __future__ import annotations

import uuid

import pytest
from celery import Celery

from idempotency.consumers.celery import idempotent_task
from tests.conftest import available
from tests.processes.gates import Gate
from tests.processes.messaging import Gateway, Queues, Workers


def events(number, **payload):
    """As Queues.publish() takes them, each with an id of its own."""
    return [({"event_id": str(uuid.uuid4())}, payload) for _ in range(number)]


def ids(messages):
    return {headers["event_id"] for headers, *_ in messages}


@pytest.fixture(scope="session")
def started_gateway():
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture
def gateway(started_gateway, monkeypatch):
    monkeypatch.setenv("SMS_GATEWAY_URL", started_gateway.url)
    return started_gateway


@pytest.fixture
def queues():
    available("rabbitmq")
    queues = Queues()
    yield queues
    queues.delete()


@pytest.fixture
def workers(queues, gateway, tmp_path):
    """``workers("orders.place")``: processes that are killed in the end."""
    all_workers = []

    def workers(*names, queues=queues, **options):
        all_workers.append(Workers(tmp_path / "workers.log", *names, queues=queues, **options))
        return all_workers[-1]

    yield workers
    for each in all_workers:
        each.close()
    for log in tmp_path.glob("workers.log*"):
        print(log.read_text()[-3000:])


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture
def diary(tmp_path):
    """How often a message was "seen", and its handler was "run"."""
    path = tmp_path / "diary"
    path.touch()

    def count(what):
        return sum(line.startswith(what) for line in path.read_text().splitlines())

    count.path = str(path)
    return count


@pytest.fixture
def app():
    """A Celery application that nobody works for."""
    app = Celery("tests", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def make(app):
    """``make(function, **options)``: a task of a name of its own."""

    def make(function, **options):
        task_options = {"key": "event", "delivery": "transactional", "app": app, **options}
        return idempotent_task(uuid.uuid4().hex, **task_options)(function)

    return make
