"""The admin on shards: each address names one, and nothing is shown or done of the row of another."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote

from idempotency.models import IdempotencyRecord, OutboxMessage
from tests.shards.rows import BOTH, DELETABLE, MODELS, PK, keep, row
from tests.test_admin import signed_in

pytestmark = [
    pytest.mark.django_db(databases=BOTH, transaction=True),
    pytest.mark.urls("tests.test_admin"),
    pytest.mark.usefixtures("shards"),
]
ADMIN = "/admin/idempotency/"
LIST = f"{ADMIN}idempotencyrecord/"


def address(alias, model=IdempotencyRecord, page="change", pk=PK):
    return f"{ADMIN}{model._meta.model_name}/{quote(f'{alias}:{pk}')}/{page}/"


@pytest.fixture
def operator(client):
    permissions = ["decide_idempotencyrecord", "release_idempotencyrecord", "view_stored_response"]
    views = [f"view_{model._meta.model_name}" for model in MODELS]
    deletes = [f"delete_{model._meta.model_name}" for model in DELETABLE]
    return signed_in(client, *permissions, *deletes, views=views)


@pytest.fixture
def both():
    return [keep(alias) for alias in BOTH]


@pytest.mark.parametrize("asked", ["", "?shard=", "?shard=nowhere", "?shard=default&shard=nowhere"])
def test_a_list_without_a_shard_is_led_to_the_first(operator, both, asked):
    answer = operator.get(f"{LIST}{asked}")
    assert parse_qs(urlsplit(answer.url).query) == {"shard": ["default"]}


def test_whoever_may_not_see_records_is_told_no_shard(client):
    assert signed_in(client, views=()).get(LIST).status_code == 403


def test_other_filters_stay_when_a_list_is_led_to_a_shard(operator, both):
    assert parse_qs(urlsplit(operator.get(f"{LIST}?decision=needed&q=a").url).query) == {
        "shard": ["default"],
        "decision": ["needed"],
        "q": ["a"],
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("alias", BOTH)
def test_a_list_shows_one_shard_and_links_to_pages_that_name_it(operator, model, alias):
    for each in BOTH:
        row(model, each)
    page = operator.get(f"{ADMIN}{model._meta.model_name}/", {"shard": alias})
    assert [found._state.db for found in page.context["cl"].result_list] == [alias]
    links = re.findall(rf'href="({ADMIN}\w+/[^"?]*/change/)', page.content.decode())
    assert set(links) == {address(alias, model)}
    shown = operator.get(links[0])
    assert shown.context["adminform"].form.instance._state.db == alias
    assert f"on {alias}" in shown.content.decode()


@pytest.mark.parametrize("model", MODELS)
def test_all_links_of_a_page_name_its_shard(operator, model):
    row(model, "elsewhere")
    pages = ["change", "history", *(["delete"] if model in DELETABLE else [])]
    for page in pages:
        shown = operator.get(address("elsewhere", model, page))
        assert shown.status_code == 200, page
        links = re.findall(rf'href="({ADMIN}\w+/[^"?/]+/\w+/)', shown.content.decode())
        assert all(quote(f"elsewhere:{PK}") in link for link in links), links
        assert links


def test_the_list_has_a_filter_with_each_shard_and_no_other_choice(operator, both):
    page = operator.get(LIST, {"shard": "elsewhere"})
    spec, *__ = page.context["cl"].filter_specs
    choices = [(str(choice["display"]), choice["selected"]) for choice in spec.choices(page.context["cl"])]
    assert choices == [("default", False), ("elsewhere", True)]
    assert "Clear all filters" not in page.content.decode()


def test_clearing_all_filters_keeps_the_shard(operator, both):
    page = operator.get(LIST, {"shard": "elsewhere", "decision": "needed"})
    assert page.context["cl"].clear_all_filters_qs == "?shard=elsewhere"
    assert "Clear all filters" in page.content.decode()


@pytest.mark.parametrize("page", ["change", "history", "delete", "decide"])
@pytest.mark.parametrize("name", ["7", "nowhere:7", ":7", "default:7:7", "Default:7", "default"])
def test_an_address_that_names_no_shard_is_not_found(operator, both, page, name):
    assert operator.get(f"{LIST}{quote(name)}/{page}/").status_code == 404


@pytest.mark.parametrize("pk", ["x", "8", "-7", "7.0", "9" * 30])
def test_a_primary_key_that_nobody_has_is_not_found(operator, both, pk):
    assert operator.get(address("elsewhere", page="decide", pk=pk)).status_code == 404
    assert operator.get(address("elsewhere", pk=pk)).url == "/admin/"


@pytest.mark.parametrize("query", ["_changelist_filters=shard%3Ddefault", "shard=default", "_to_field=id"])
def test_nothing_but_the_address_says_which_row_a_page_is_about(operator, both, query):
    page = operator.get(f"{address('elsewhere')}?{query}")
    assert page.context["adminform"].form.instance._state.db == "elsewhere"
    assert "key-on-default" not in page.content.decode()


@pytest.mark.parametrize("model", DELETABLE)
def test_a_row_is_deleted_on_the_shard_of_its_page(operator, model):
    for alias in BOTH:
        row(model, alias)
    operator.post(address("elsewhere", model, "delete"), {"post": "yes"})
    assert [model.objects.using(alias).count() for alias in BOTH] == [1, 0]
    assert LogEntry.objects.get().object_id == f"elsewhere:{PK}"


@pytest.mark.parametrize("model", DELETABLE)
def test_selected_rows_are_deleted_on_the_shard_of_their_list(operator, model):
    for alias in BOTH:
        row(model, alias)
    url = f"{ADMIN}{model._meta.model_name}/?shard=elsewhere"
    chosen = {"action": "delete_selected", "_selected_action": [PK]}
    assert "on elsewhere" in operator.post(url, chosen).content.decode()
    operator.post(url, {**chosen, "post": "yes"})
    assert [model.objects.using(alias).count() for alias in BOTH] == [1, 0]


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_added_or_changed(admin_client, model):
    row(model, "elsewhere")
    assert admin_client.post(address("elsewhere", model), {"key": "other"}).status_code == 403
    assert admin_client.get(f"{ADMIN}{model._meta.model_name}/add/").status_code == 403
    assert admin_client.post(f"{ADMIN}{model._meta.model_name}/add/").status_code == 403


@pytest.mark.parametrize("model", [model for model in MODELS if model not in DELETABLE])
def test_what_may_not_be_deleted_is_not(admin_client, model):
    row(model, "elsewhere")
    assert admin_client.post(address("elsewhere", model, "delete"), {"post": "yes"}).status_code == 403
    assert model.objects.using("elsewhere").exists()


def test_a_message_is_tried_again_on_the_shard_of_its_list(operator):
    for alias in BOTH:
        row(OutboxMessage, alias)
        OutboxMessage.objects.using(alias).update(state=OutboxMessage.State.FAILED)
    url = f"{ADMIN}outboxmessage/?shard=elsewhere"
    operator.post(url, {"action": "try_again", "_selected_action": [PK]})
    states = [OutboxMessage.objects.using(alias).get().state for alias in BOTH]
    assert states == [OutboxMessage.State.FAILED, OutboxMessage.State.WAITING]
