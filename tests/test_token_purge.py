from datetime import timedelta

import pytest
from django.core.management import CommandError
from django.utils import timezone

from idempotency.exceptions import DuplicateToken, ExpiredToken
from idempotency.models import IdempotencyToken
from idempotency.tokens import tokens
from tests.test_purge import expire, neighbour, purge  # noqa: F401  (a fixture)

pytestmark = pytest.mark.django_db(transaction=True)
HOLDER = ("user", "1")
DAY = timedelta(days=1)


def issue(count=1):
    return [issued.token for issued in tokens().issue(HOLDER, count=count)]


def consume(token):
    with tokens().consume(token, HOLDER):
        pass


def age(by):
    """As if all tokens were issued, and used, so much earlier."""
    for row in IdempotencyToken.objects.all():
        row.expires_at -= by
        row.kept_until -= by
        row.save()


def test_tokens_that_nobody_used_go_when_they_have_expired():
    issue(3)
    assert purge() == "0 records deleted in database 'default'."
    age(2 * timedelta(hours=1))
    assert purge() == "0 records deleted, 3 tokens deleted in database 'default'."
    assert not IdempotencyToken.objects.exists()


def test_a_used_token_stays_for_the_retention_beyond_its_expiry():
    (token,) = issue()
    consume(token)
    age(DAY)
    purge()
    with pytest.raises(DuplicateToken):
        consume(token)
    age(timedelta(hours=2))
    purge()
    with pytest.raises(ExpiredToken):
        consume(token)


def test_a_dry_run_counts_tokens_and_keeps_them():
    issue(2)
    age(DAY)
    expire("a")
    assert purge("--dry-run") == "1 record to delete, 2 tokens to delete in database 'default'."
    assert IdempotencyToken.objects.count() == 2


def test_tokens_go_in_batches_of_the_size_asked_for():
    issue(5)
    age(DAY)
    assert "5 tokens deleted" in purge("--batch-size=2")


def test_tokens_left_when_the_time_is_over_are_said():
    issue(5)
    age(DAY)
    with pytest.raises(CommandError, match="rows are left"):
        purge("--batch-size=2", "--max-seconds=0.000001")
    assert IdempotencyToken.objects.count() == 3


def test_erasing_a_principal_leaves_tokens_which_name_nobody():
    issue()
    purge("--scope=user:1")
    assert IdempotencyToken.objects.count() == 1


@pytest.mark.parametrize("batch_size", ["1", "1000"])
def test_a_token_that_somebody_holds_is_left_without_waiting(neighbour, batch_size):  # noqa: F811
    issue(3)
    age(DAY)
    held = IdempotencyToken.objects.first()
    with neighbour.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {held._meta.db_table} WHERE id = %s FOR UPDATE", [held.pk])
    assert "2 tokens deleted, 1 in use and left" in purge(f"--batch-size={batch_size}")


def test_a_token_that_is_purged_was_not_good_a_moment_before():
    (token,) = issue()
    age(timedelta(hours=1))
    assert IdempotencyToken.objects.get().kept_until <= timezone.now()
    with pytest.raises(ExpiredToken):
        consume(token)
