"""The token's guard: the contract on every medium, and what tokens alone promise."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from idempotency.exceptions import (
    DuplicateToken,
    ExpiredToken,
    IdempotencyError,
    InvalidToken,
    MissingPrincipal,
    OperationInProgress,
    TooManyTokens,
)
from idempotency.models import IdempotencyToken
from idempotency.tokens import tokens
from tests.guards.contract import GuardContract, OneWriterOnSQLite
from tests.processes.programs import told_to_contenders
from tests.project.models import Order

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.psycopg3, pytest.mark.pgbouncer]
HOLDER = ("user", "1")
ISOLATED = ["redis", "redis-cluster", "locmem"]
"""Mediums that are not the database of the work."""


def text(alias, **options):
    return tokens(alias).issue(HOLDER, **options).token


def consume(alias, token, holder=HOLDER, **options):
    with tokens(alias).consume(token, holder, **options) as guard:
        Order.objects.create(reference="run")
    return guard


class TokenContract(OneWriterOnSQLite, GuardContract):
    on_failure = "consume"

    @pytest.fixture(autouse=True)
    def medium(self, alias):
        self.alias, self.issued = alias, {}

    @property
    def frees_on_failure(self):
        return self.alias == "default" or self.on_failure == "restore"

    def guard(self, key):
        token = self.issued.setdefault(key, text(self.alias))
        return tokens(self.alias).consume(token, HOLDER, on_failure=self.on_failure)

    def test_of_eight_processes_one_gets_in(self):
        if self.alias == "locmem":
            pytest.skip("another process knows nothing of this one's memory")
        told = told_to_contenders("token", self.alias, text(self.alias), self.on_failure)
        assert told.count("ran") == 1
        # Elsewhere than in Redis, the first may still be uncommitted.
        assert {*told} <= {"ran", "duplicate", "conflict" if self.alias == "default" else "duplicate"}
        assert Order.objects.count() == 1


class TestConsumingToken(TokenContract):
    pass


class TestRestoringToken(TokenContract):
    on_failure = "restore"


def test_a_token_is_used_once(alias):
    token = text(alias)
    consume(alias, token)
    with pytest.raises(DuplicateToken):
        consume(alias, token)
    assert Order.objects.count() == 1


def test_a_batch_is_issued_and_each_is_good_once(alias):
    batch = tokens(alias).issue(HOLDER, count=20)
    assert len({issued.token for issued in batch}) == 20
    for issued in batch:
        consume(alias, issued.token)
    assert Order.objects.count() == 20


def test_it_says_when_it_expires(alias):
    left = tokens(alias).issue(HOLDER).expires_at - timezone.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1, seconds=5)


def test_anothers_token_is_invalid_and_stays_good(alias):
    token = text(alias)
    with pytest.raises(InvalidToken):
        consume(alias, token, ("user", "2"))
    consume(alias, token)


def test_a_token_for_another_purpose_is_invalid_and_stays_good(alias):
    token = text(alias, purpose="payment")
    for purpose in ("", "refund", "payment "):
        with pytest.raises(InvalidToken):
            consume(alias, token, purpose=purpose)
    consume(alias, token, purpose="payment")


def test_a_used_token_tells_others_nothing(alias):
    token = text(alias)
    consume(alias, token)
    with pytest.raises(InvalidToken):
        consume(alias, token, ("user", "2"))


def test_a_token_that_was_never_issued_has_expired(alias):
    with pytest.raises(ExpiredToken):
        consume(alias, "x" * 32)


@pytest.mark.parametrize(
    "malformed", ["", "x", "x" * 31, "x" * 33, "é" * 32, "x" * 31 + "\n", "x" * 31 + "="]
)
def test_a_malformed_token_is_refused_before_the_store_is_asked(malformed):
    with pytest.raises(InvalidToken):
        tokens("redis").consume(malformed, HOLDER)


@pytest.mark.parametrize("alias", ISOLATED, indirect=True)
def test_the_same_nonce_is_let_in_again(alias):
    token = text(alias)
    consume(alias, token, nonce=b"n" * 16)
    consume(alias, token, nonce=b"n" * 16)
    with pytest.raises(DuplicateToken):
        consume(alias, token, nonce=b"m" * 16)


@pytest.mark.parametrize("alias", ISOLATED, indirect=True)
def test_the_same_nonce_is_let_in_as_long_as_the_token_lives(alias, settings):
    short(settings, alias, timedelta(milliseconds=700))
    issued = tokens(alias).issue(HOLDER)
    consume(alias, issued.token, nonce=b"n" * 16)
    wait_until_over(issued.expires_at)
    with pytest.raises(DuplicateToken):
        consume(alias, issued.token, nonce=b"n" * 16)


def test_in_the_database_of_the_work_a_committed_nonce_is_done_work():
    token = text("default")
    consume("default", token, nonce=b"n" * 16)
    with pytest.raises(DuplicateToken):
        consume("default", token, nonce=b"n" * 16)


def short(settings, alias, lifetime, retention=timedelta(hours=1)):
    mediums = settings.IDEMPOTENCY_TOKENS
    options = {**mediums.get(alias, {}), "LIFETIME": lifetime, "RETENTION": retention}
    settings.IDEMPOTENCY_TOKENS = {**mediums, alias: options}


def wait_until_over(moment):
    """Tokens live by their store's clock, which is this machine's."""
    while timezone.now() <= moment + timedelta(milliseconds=20):
        pass


def test_an_unused_token_expires(alias, settings):
    short(settings, alias, timedelta(milliseconds=80))
    issued = tokens(alias).issue(HOLDER)
    wait_until_over(issued.expires_at)
    with pytest.raises(ExpiredToken):
        consume(alias, issued.token)


def test_a_used_token_is_known_as_a_duplicate_after_its_expiry(alias, settings):
    short(settings, alias, timedelta(milliseconds=700))
    issued = tokens(alias).issue(HOLDER)
    consume(alias, issued.token)
    wait_until_over(issued.expires_at)
    with pytest.raises(DuplicateToken):
        consume(alias, issued.token)


def test_a_restored_token_has_what_was_left_of_its_lifetime(alias, settings):
    short(settings, alias, timedelta(milliseconds=700))
    issued = tokens(alias).issue(HOLDER)
    with pytest.raises(LookupError):
        fail_within(alias, issued.token, on_failure="restore")
    wait_until_over(issued.expires_at)
    with pytest.raises(ExpiredToken):
        consume(alias, issued.token)


def fail_within(alias, token, **options):
    with tokens(alias).consume(token, HOLDER, **options):
        Order.objects.create(reference="failed")
        raise LookupError


def test_issuing_is_bounded_per_principal(alias, settings):
    settings.IDEMPOTENCY_TOKENS = {
        **settings.IDEMPOTENCY_TOKENS,
        alias: {**settings.IDEMPOTENCY_TOKENS.get(alias, {}), "LIMIT": 5},
    }
    greedy, modest = ("greedy", str(timezone.now())), ("modest", str(timezone.now()))
    tokens(alias).issue(greedy, count=3)
    with pytest.raises(TooManyTokens) as refusal:
        tokens(alias).issue(greedy, count=3)
    assert refusal.value.retry_after >= 1
    tokens(alias).issue(greedy, count=2)
    tokens(alias).issue(modest, count=5)


@pytest.mark.parametrize("count", [0, -1, 1001, True, 1.5, "3"])
def test_a_senseless_count_is_refused(count):
    with pytest.raises(ValueError, match="1 to 1000"):
        tokens().issue(HOLDER, count=count)


def test_nobody_is_issued_a_token():
    with pytest.raises(MissingPrincipal):
        tokens().issue(("user", None))


def test_restoring_rolls_back_before_the_token_is_good_again(alias):
    token = text(alias)
    with pytest.raises(LookupError):
        fail_within(alias, token, on_failure="restore")
    assert not Order.objects.exists()
    consume(alias, token)
    assert Order.objects.count() == 1


@pytest.mark.parametrize("alias", ISOLATED, indirect=True)
def test_consuming_leaves_transactions_to_the_work(alias):
    with pytest.raises(LookupError):
        fail_within(alias, text(alias))
    assert Order.objects.count() == 1


@pytest.mark.parametrize("on_failure", ["consume", "restore"])
def test_in_the_database_of_the_work_token_and_work_are_kept_or_lost_together(on_failure):
    token = text("default")
    with pytest.raises(LookupError):
        fail_within("default", token, on_failure=on_failure)
    assert not Order.objects.exists()
    assert IdempotencyToken.objects.get().nonce is None
    consume("default", token)
    assert Order.objects.count() == 1
    assert IdempotencyToken.objects.get().nonce is not None


def test_in_an_open_transaction_the_token_goes_with_it():
    token = text("default")
    with pytest.raises(LookupError), transaction.atomic():
        consume("default", token)
        raise LookupError
    consume("default", token)
    assert Order.objects.count() == 1


@pytest.mark.skipif(connection.vendor == "sqlite", reason="on SQLite the second caller waits")
def test_a_token_whose_use_is_uncommitted_is_busy_and_not_a_duplicate():
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connections

    token = text("default")

    def second():
        try:
            consume("default", token)
        except IdempotencyError as error:
            return type(error)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool, tokens().consume(token, HOLDER):
        assert pool.submit(second).result() is OperationInProgress


def test_only_digests_are_stored(alias):
    token = text(alias)
    consume(alias, token)
    stored = IdempotencyToken.objects.values_list("digest", "binding", "principal", "nonce")
    assert not any(token.encode() in bytes(column or b"") for row in stored for column in row)


@pytest.mark.parametrize("alias", ["redis"], indirect=True)
def test_redis_holds_digests_only(alias):
    from django_redis import get_redis_connection

    token = text(alias)
    consume(alias, token)
    names = [
        key.decode() for key in get_redis_connection("redis").scan_iter("idempotency:token:*", count=1000)
    ]
    assert names
    assert not any(token[8:] in name for name in names)


@pytest.mark.parametrize(
    ("mediums", "match"),
    [
        ({"default": {"LIFETIME": 60}}, "LIFETIME"),
        ({"default": {"LIFETIME": timedelta(0)}}, "LIFETIME"),
        ({"default": {"RETENTION": timedelta(days=40_000)}}, "RETENTION"),
        ({"default": {"LIMIT": 0}}, "LIMIT"),
        ({"default": {"FAIL_OPEN": "no"}}, "FAIL_OPEN"),
        ({"default": {"TIMEOUT": 60}}, "unknown options: TIMEOUT"),
        ({"default": {"BACKEND": "nowhere.Store"}}, "BACKEND"),
        ({"default": {"BACKEND": "tests.project.models.Order"}}, "no BaseTokenStore"),
        ({"default": []}, "dict"),
        (["default"], "dict"),
    ],
)
def test_a_wrong_setting_is_named(settings, mediums, match):
    settings.IDEMPOTENCY_TOKENS = mediums
    with pytest.raises(ImproperlyConfigured, match=match):
        tokens()


def test_an_unknown_alias_is_named():
    with pytest.raises(ImproperlyConfigured, match=r"'nowhere'.*'default', 'redis'"):
        tokens("nowhere")


def test_a_cache_that_is_no_redis_is_named(settings):
    settings.IDEMPOTENCY_TOKENS = {"default": {"BACKEND": "idempotency.tokens.redis.RedisTokenStore"}}
    with pytest.raises(ImproperlyConfigured, match=r"CACHES\['default'\] must be a Redis of django-redis"):
        tokens().issue(HOLDER)


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="'consume' or 'restore'"):
        tokens().consume(text("default"), HOLDER, on_failure="keep")
