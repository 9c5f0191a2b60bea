"""`manage.py shards`, and what is said of a map that cannot be."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
from rest_framework.viewsets import ModelViewSet

from idempotency.decorators import idempotent
from idempotency.exceptions import WrongShardMap
from idempotency.mixins import IdempotencyKeyMixin
from idempotency.models import IdempotencyRecord, Shard
from idempotency.shards import require_same_map, shard_map
from idempotency.shards.maps import in_ranges
from idempotency.shards.router import ShardRouter
from idempotency.shards.stored import known
from tests.project.models import Order
from tests.shards.conftest import MOVED, TWO, create

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "elsewhere"])


@pytest.fixture
def said(capsys):
    def said(*arguments):
        call_command("shards", *arguments)
        return capsys.readouterr().out

    return said


def test_it_shows_slots_records_skew_and_versions(shards, said, user_on):
    for slot in (1, 2, 9):
        idempotent(key="key", scope=lambda key, slot=slot: user_on(slot))(create)("a")
    lines = said("--exact").splitlines()
    assert lines[0].startswith("Version 1 of the settings, ")
    assert lines[1] == "  default: version 1; 8 slots (0-7); records: 2 (1.33 of the mean)"
    assert lines[2] == "  elsewhere: version 1; 8 slots (8-15); records: 1 (0.67 of the mean)"
    assert "  slot 9 on elsewhere: 1 records" in lines
    for connection in connections.all():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE idempotency_record")
    assert "default: version 1" in said()


def test_it_shows_records_that_are_astray(shards, said, user_on):
    idempotent(key="key", scope=lambda key: user_on(1))(create)("a")
    IdempotencyRecord.objects.using("default").update(slot=9)
    idempotent(key="key", using="default")(create)("b")
    text = said("--exact")
    assert "default: records astray, whose slots are elsewhere: 9" in text
    assert "default: 1 records of no slot" in text


def test_freezing_and_letting_in_say_what_was_done(shards, said):
    assert said("freeze", "3-5, 9") == "Frozen, and nobody works there: slots 3-5, 9.\n"
    assert "frozen: 3-5" in said()
    assert known("elsewhere").frozen == {3, 4, 5, 9}
    assert said("unfreeze", "3-5,9") == "Served again: slots 3-5, 9.\n"
    assert known("elsewhere").frozen == set()


def test_freezing_twice_keeps_the_slot_frozen(shards, said):
    said("freeze", "3")
    said("freeze", "3")
    assert known("default").frozen == {3}


def test_a_map_is_adopted_checked_and_retired(shards, settings, said):
    assert said("check") == "All shards have version 1.\n"
    assert said("adopt") == "Version 1 is now that of: no further shard.\n"
    said("freeze", "6-7")
    settings.IDEMPOTENCY_SHARDS = MOVED
    assert said("adopt") == "Version 2 is now that of: default, elsewhere.\n"
    assert "version 2, and 1 until it is retired" in said()
    assert said("retire") == "Version 2 is now the only one that is served.\n"
    settings.IDEMPOTENCY_SHARDS = TWO
    with pytest.raises(CommandError, match="would be refused"):
        said("check")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["freeze"], "takes slots"),
        (["adopt", "3"], "takes no slots"),
        (["freeze", "3-99"], "from 0 to 15"),
        (["freeze", "five"], "from 0 to 15"),
        (["freeze", ""], "from 0 to 15"),
        (["unfreeze", "5-3"], "from 0 to 15"),
    ],
)
def test_wrong_arguments_are_refused(shards, said, arguments, message):
    with pytest.raises(CommandError, match=message):
        said(*arguments)


def test_without_shards_it_says_so(said):
    with pytest.raises(CommandError, match="set IDEMPOTENCY_SHARDS"):
        said()


def test_a_process_asks_at_its_start(shards, settings):
    require_same_map()
    settings.IDEMPOTENCY_SHARDS = {**MOVED, "VERSION": 1}
    with pytest.raises(WrongShardMap, match="slots 6-7"):
        require_same_map()
    assert get_wsgi_application()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "must be a dict"),
        ({"WEIGHT": 1}, "unknown options: WEIGHT"),
        ({"VERSION": 0}, "VERSION"),
        ({"SLOTS": 10**6}, "SLOTS"),
        ({"MAP": {}}, "each database alias its slots"),
        ({"MAP": {"nowhere": "0-15"}}, "'nowhere', which DATABASES does not have"),
        ({"MAP": {"default": "0-7"}}, "leaves out slots 8-15"),
        ({"MAP": {"default": "0-15", "elsewhere": "15"}}, "has slot 15 twice"),
        ({"MAP": {"default": [0, 15]}}, "given as '0-99, 200'"),
        ({"MODELS": "project.Order"}, "list of labels"),
    ],
)
def test_a_map_that_cannot_be_is_refused_and_checked(settings, found, change, message):
    settings.IDEMPOTENCY_SHARDS = {**TWO, **change} if isinstance(change, dict) else change
    with pytest.raises(ImproperlyConfigured, match=message):
        shard_map()
    assert found() == {"E030"}


def test_slots_are_the_same_everywhere_and_for_ever(shards):
    assert [shards.slot_of(("auth.user", str(number))) for number in range(6)] == [5, 15, 2, 13, 5, 13]
    assert shards.slot_of("tenant") == shards.slot_of(("scope", "tenant"))
    assert in_ranges([0, 1, 2, 5]) == "0-2, 5"


class OrderViewSet(IdempotencyKeyMixin, ModelViewSet):
    queryset = Order.objects.none()


def viewset():
    return OrderViewSet.as_view({"post": "create"})


def test_a_view_whose_rows_are_not_on_shards_is_an_error(shards, settings, found):
    assert not found(viewset()) & {"E003", "E031", "E032"}
    settings.IDEMPOTENCY_SHARDS = {**TWO, "MODELS": []}
    assert "E031" in found(viewset())


def test_models_on_shards_without_the_router_are_an_error(shards, settings, found):
    settings.DATABASE_ROUTERS = []
    assert "E032" in found(viewset())


def test_the_databases_check_tells_of_another_map(shards, settings, found):
    databases = ["default", "elsewhere"]
    assert "E033" not in found(databases=databases, include_deployment_checks=False)
    Shard.objects.using("elsewhere").update(version=7)
    assert "E033" in found(databases=databases)


def test_other_models_are_another_map(shards, settings, said):
    settings.IDEMPOTENCY_SHARDS = {**TWO, "MODELS": ["project.order"]}
    with pytest.raises(WrongShardMap, match="default: has other MODELS in version 1"):
        require_same_map()
    with pytest.raises(CommandError, match="count VERSION up"):
        said("adopt")
    settings.IDEMPOTENCY_SHARDS = {**settings.IDEMPOTENCY_SHARDS, "VERSION": 2}
    said("adopt")
    require_same_map()


def test_migrations_of_what_is_on_shards_run_there_alone(shards, settings):
    settings.IDEMPOTENCY_SHARDS = {**TWO, "MAP": {"elsewhere": "0-15"}}
    router = ShardRouter()
    assert router.allow_migrate("default", "project", "order") is False
    assert router.allow_migrate("elsewhere", "project", "order") is None
    assert router.allow_migrate("default", "auth", "user") is None
