"""Each command that Redis is sent about a token, lost or late on the way there or on the way back."""

from __future__ import annotations

from contextlib import suppress

import pytest

from idempotency import work
from idempotency.exceptions import DuplicateToken, StoreUnavailable, TooManyTokens
from idempotency.tokens import tokens
from idempotency.tokens.redis import CREATE, GIVE_BACK, TAKE
from tests.conftest import beside_postgresql
from tests.processes.redis_caches import RETRIES, WAYS, at_every_command, connecting, go
from tests.processes.redis_tokens import HOLDER, tokens_at
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), beside_postgresql]
SENT = {
    "issue": dict(zip(WAYS, (6, 2), strict=True)),
    "consume": dict(zip(WAYS, (6, 2), strict=True)),
    "restore": dict(zip(WAYS, (7, 4), strict=True)),
}


@pytest.fixture
def store(proxy, settings, retries, fault):
    with tokens_at(settings, proxy.port, **connecting(fault, retries)) as store:
        yield store


@pytest.fixture
def token(store):
    return tokens("direct").issue(HOLDER).token


@pytest.fixture
def commands(proxy, token, way, monkeypatch):
    """As an operation sends them from here on."""
    go(way, (CREATE, TAKE, GIVE_BACK), proxy, monkeypatch)
    return lambda: proxy.commands


@pytest.fixture
def befallen(proxy, commands, fault, number):
    """The command of that number, from here on."""
    proxy.fault(fault, at=number)


def run(token, **options):
    with tokens().consume(token, HOLDER, **options):
        Order.objects.create(reference="run")


def fail(token):
    with pytest.raises(LookupError), tokens().consume(token, HOLDER, on_failure="restore"):
        Order.objects.create(reference="failed")
        raise LookupError


def refused(token):
    with pytest.raises(DuplicateToken):
        run(token)
    return True


def used_once(token, proxy):
    """Whether nobody gets in any more, before and after what was held back has arrived."""
    proxy.mend()
    refused(token)
    proxy.release()
    return refused(token) and Order.objects.count() == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", SENT)
def test_every_command_has_a_number(way, operation, store, token, commands):
    {"issue": lambda token: store.issue(HOLDER), "consume": run, "restore": fail}[operation](token)
    assert len(commands()) == SENT[operation][way], commands()


@at_every_command(SENT["consume"])
def test_the_first_caller_gets_in_once(befallen, proxy, token):
    run(token)
    assert used_once(token, proxy)


@at_every_command(SENT["restore"])
def test_a_failed_operation_can_be_run_again_once(befallen, proxy, token):
    fail(token)
    assert not Order.objects.exists()
    proxy.mend()
    run(token)
    assert used_once(token, proxy)


@at_every_command(SENT["issue"])
def test_an_issued_token_is_good_once(befallen, proxy, store, retries):
    issued = None
    with suppress(StoreUnavailable):
        issued = store.issue(HOLDER)
    assert issued or retries == "once"
    token = (issued or store.issue(HOLDER)).token
    run(token)
    assert used_once(token, proxy)


def test_redis_py_sends_again_what_was_not_answered(proxy, store, retries):
    proxy.fault("drop-reply", only="EVALSHA", at=1)
    with suppress(StoreUnavailable):
        store.issue(HOLDER)
    assert proxy.commands.count("EVALSHA") == (1 if retries == "once" else 2)


@pytest.mark.parametrize("retries", ["redis-py-retries"])
def test_redis_py_is_not_told_that_its_own_command_was_another_caller(proxy, token, monkeypatch):
    monkeypatch.setattr(work, "ATTEMPTS", 1)
    proxy.fault("drop-reply", only="EVALSHA", at=1, times=3)
    run(token)
    assert proxy.commands.count("EVALSHA") == 4
    assert used_once(token, proxy)


@pytest.mark.parametrize("only", [None, "EVALSHA"])
@pytest.mark.parametrize("fault", ["drop-request", "drop-reply"])
@pytest.mark.parametrize("on_failure", ["consume", "restore"])
def test_when_every_attempt_fails_nothing_runs_and_the_token_stays_good(
    proxy, token, fault, only, on_failure
):
    proxy.fault(fault, only=only)
    with pytest.raises(StoreUnavailable):
        run(token, on_failure=on_failure)
    assert not Order.objects.exists()
    proxy.mend()
    run(token)
    assert used_once(token, proxy)


def test_what_a_vain_attempt_consumed_is_given_back_later(proxy, token, retries):
    attempts = work.ATTEMPTS * (1 + (retries != "once") * 3)
    proxy.fault("drop-reply", only="EVALSHA", at=1, times=attempts)
    proxy.fault("drop-request", only="EVALSHA", at=attempts + 1, times=4)
    with pytest.raises(StoreUnavailable):
        run(token)
    with pytest.raises(DuplicateToken), tokens("direct").consume(token, HOLDER):
        pass
    proxy.mend()
    run(token)
    assert used_once(token, proxy)


@pytest.mark.parametrize(("retries", "fault"), [("once", "delay-request")])
def test_a_late_attempt_that_gave_up_takes_nothing_from_another(proxy, token, fault):
    proxy.fault(fault, only="EVALSHA", at=1, times=work.ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        run(token)
    proxy.wait_until_held(work.ATTEMPTS)
    run(token)
    assert used_once(token, proxy)


@pytest.mark.parametrize(("retries", "fault"), [("once", "delay-request")])
def test_a_late_give_back_lets_nobody_in_beside_the_next(proxy, token, fault):
    proxy.fault(fault, only="EVALSHA", at=2)
    fail(token)
    with tokens().consume(token, HOLDER):
        Order.objects.create(reference="run")
        proxy.wait_until_held()
        assert used_once(token, proxy)


def test_what_is_sent_again_counts_once_against_the_limit(proxy, settings):
    with tokens_at(settings, proxy.port, pool=RETRIES["redis-py-retries"], LIMIT=5) as store:
        proxy.fault("drop-reply", only="EVALSHA", at=1, times=3)
        store.issue(HOLDER, count=3)
        store.issue(HOLDER, count=2)
        with pytest.raises(TooManyTokens):
            store.issue(HOLDER)
