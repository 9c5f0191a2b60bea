"""Eight clients with one token at once, over HTTP, against a server of several processes and threads."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from django.contrib.auth.models import User

from idempotency.tokens import tokens
from tests.project.models import Order, Product
from tests.test_races import ATOMIC, PLAIN, REPEATABLE, SERIALIZABLE, served, server  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.race, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("users")]
TOKENS, PROCESSES, REPEATS = 20, 8, 3
on_each_medium = pytest.mark.parametrize("alias", ["default", "redis"], indirect=True)


def storm(server, alias, path):  # noqa: F811
    """The answers by token. Each token is one order's, whose reference is the key that is sent too."""
    issued = tokens(alias).issue(User.objects.get(username="alice"), count=TOKENS)
    plan = {f"order-{number}": issued.token for number, issued in enumerate(issued)}
    answers = defaultdict(list)
    for answer in server.storm(
        f"/{alias}/{path}/", keys=list(plan), tokens=plan, processes=PROCESSES, repeats=REPEATS
    ):
        answers[answer.key].append(answer)
    assert {len(several) for several in answers.values()} == {PROCESSES * REPEATS}
    return answers.values()


def is_duplicate(answer):
    return answer.status == 409 and json.loads(answer.body)["code"] == "duplicate"


def assert_written_once():
    for model, name in ((Order, "reference"), (Product, "name")):
        written = list(model.objects.values_list(name, flat=True))
        assert len(written) == len(set(written)) == TOKENS


@on_each_medium
@pytest.mark.parametrize("path", ["token-race", "restored-token-race"])
@served(PLAIN, ATOMIC, REPEATABLE)
def test_one_of_them_is_let_in_and_the_others_are_told_so(server, alias, path):  # noqa: F811
    for answers in storm(server, alias, path):
        assert sum(answer.status == 201 for answer in answers) == 1
        assert all(answer.status == 201 or answer.refused or is_duplicate(answer) for answer in answers)
        assert alias == "default" or not any(answer.refused for answer in answers)
    assert_written_once()


@pytest.mark.parametrize("alias", ["default"], indirect=True)
@served(SERIALIZABLE)
def test_serializable_lets_one_in_at_most(server, alias):  # noqa: F811
    for answers in storm(server, alias, "token-race"):
        assert sum(answer.status == 201 for answer in answers) <= 1
        assert all(answer.status == 201 or answer.refused or is_duplicate(answer) for answer in answers)
    assert Order.objects.count() == Product.objects.count() <= TOKENS


@on_each_medium
@served(PLAIN, ATOMIC, REPEATABLE)
def test_with_a_key_all_of_them_get_the_one_answer(server, alias):  # noqa: F811
    for answers in storm(server, alias, "token-and-key-race"):
        told = {answer.response for answer in answers if not answer.refused}
        assert len(told) == 1
        assert {status for status, *_ in told} == {201}
    assert_written_once()
