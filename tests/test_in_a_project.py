"""In a user's project: their TestCase, their ATOMIC_REQUESTS, their hooks, and the wheel they install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase
from rest_framework.exceptions import APIException
from rest_framework.response import Response
from rest_framework.test import APIClient, APITestCase

from idempotency import signals
from idempotency.models import IdempotencyRecord
from tests.project import views
from tests.project.models import Order

REPOSITORY = Path(__file__).resolve().parent.parent


def written():
    return Order.objects.count(), IdempotencyRecord.objects.count()


class OrdersByTestClient:
    """What a user asserts about their view; once in a transaction of its own, once in TestCase's."""

    @classmethod
    def order(cls, client, key="key-1", **data):
        headers = {"Idempotency-Key": key, "X-User": "alice"}
        return client.post("/orders/", data, "application/json", headers=headers)

    def setUp(self):
        super().setUp()
        User.objects.create(username="alice")
        self.client.raise_request_exception = False

    def test_a_retry_is_replayed(self):
        first, again = (self.order(self.client, reference="a") for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 201)
        assert again["Idempotency-Replayed"] == "true"
        assert written() == (1, 1)

    def test_another_payload_is_refused(self):
        self.order(self.client, reference="a")
        assert self.order(self.client, reference="b").status_code == 422
        assert written() == (1, 1)

    def test_a_raised_refusal_is_replayed_without_its_writes(self):
        first, again = (self.order(self.client, do="raise-400") for _ in range(2))
        assert (first.status_code, again.status_code) == (400, 400)
        assert "Idempotency-Replayed" in again
        assert written() == (0, 1)

    def test_a_crash_leaves_nothing_and_the_test_goes_on(self):
        assert self.order(self.client, do="raise").status_code == 500
        assert written() == (0, 0)
        assert self.order(self.client, reference="a").status_code == 201
        assert written() == (1, 1)

    def test_a_broken_constraint_leaves_nothing_and_the_test_goes_on(self):
        assert self.order(self.client, do="swallow-400").status_code == 400
        assert "Idempotency-Replayed" in self.order(self.client, do="swallow-400")
        assert written() == (0, 1)


class OrdersInTestCase(OrdersByTestClient, TestCase):
    def test_hooks_are_captured_once_and_not_for_a_replay(self):
        with self.captureOnCommitCallbacks(execute=True) as hooks:
            self.order(self.client, do="hook")
        assert views.HOOKS_RUN == ["hook"]
        assert hooks
        with self.captureOnCommitCallbacks(execute=True) as hooks:
            assert "Idempotency-Replayed" in self.order(self.client, do="hook")
        assert (views.HOOKS_RUN, hooks) == (["hook"], [])

    def test_hooks_of_what_rolled_back_are_not_captured(self):
        def hook_then_fail():
            views.hook()
            raise RuntimeError

        views.ACTIONS["hook-then-fail"] = hook_then_fail
        self.addCleanup(views.ACTIONS.pop, "hook-then-fail")
        with self.captureOnCommitCallbacks(execute=True) as hooks:
            self.order(self.client, do="hook-then-fail")
        assert (views.HOOKS_RUN, hooks) == ([], [])

    def test_completion_is_announced_with_the_captured_hooks(self):
        seen = []

        def receive(key, **extra):
            seen.append(key.key)

        signals.completed.connect(receive)
        self.addCleanup(signals.completed.disconnect, receive)
        with self.captureOnCommitCallbacks(execute=True):
            self.order(self.client)
            assert seen == []
        assert seen == ["key-1"]


class OrdersInTransactionTestCase(OrdersByTestClient, TransactionTestCase):
    def test_hooks_run_once_and_not_for_a_replay(self):
        for _ in range(2):
            self.order(self.client, do="hook")
        assert views.HOOKS_RUN == ["hook"]


class OrdersByAPIClient(APITestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = User.objects.create(username="alice")

    def test_a_client_with_forced_authentication_is_scoped_by_its_user(self):
        for user in (self.user, User.objects.create(username="bob")):
            client = APIClient()
            client.force_authenticate(user)
            for _ in range(2):
                client.post("/order-set/", {"reference": "a"}, headers={"Idempotency-Key": "key-1"})
        assert written() == (2, 2)


# ATOMIC_REQUESTS


def twice(caller, **data):
    """Status of both answers, and whether the second was a replay."""
    first, again = (caller.once("/orders/", data) for _ in range(2))
    assert "Idempotency-Replayed" not in first
    return first.status_code, again.status_code, "Idempotency-Replayed" in again


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("atomic_requests")
class TestWithAndWithoutAtomicRequests:
    @pytest.mark.parametrize(
        ("do", "answers", "rows"),
        [
            ("", (201, 201, True), (1, 1)),
            ("return-303", (303, 303, True), (1, 1)),
            ("return-400", (400, 400, True), (1, 1)),
            ("savepoint", (201, 201, True), (1, 1)),
            ("raise-400", (400, 400, True), (0, 1)),
            ("raise-418", (418, 418, True), (0, 1)),
            ("swallow-400", (400, 400, True), (0, 1)),
            ("return-429", (429, 429, False), (0, 0)),
            ("raise-403", (403, 403, False), (0, 0)),
            ("return-500", (500, 500, False), (0, 0)),
            ("raise", (500, 500, False), (0, 0)),
            ("swallow-201", (500, 500, False), (0, 0)),
            ("set-rollback", (500, 500, False), (0, 0)),
            ("unrenderable", (500, 500, False), (0, 0)),
        ],
    )
    def test_an_outcome_is_kept_or_frees_the_key(self, alice, do, answers, rows):
        assert twice(alice, do=do) == answers
        assert written() == rows
        assert not connection.in_atomic_block

    def test_a_key_is_free_after_a_crash(self, alice, monkeypatch):
        outcomes = [views.ACTIONS["raise"], lambda: Response(status=201)]
        monkeypatch.setitem(views.ACTIONS, "crash-once", lambda: outcomes.pop(0)())
        assert [alice.once("/orders/", {"do": "crash-once"}).status_code for _ in "ab"] == [500, 201]
        assert written() == (1, 1)

    def test_a_nested_transaction_of_the_view_stands_with_it(self, alice, monkeypatch):
        def nest():
            with transaction.atomic(), transaction.atomic():
                Order.objects.create(reference="nested")
            return Response(status=201)

        monkeypatch.setitem(views.ACTIONS, "nest", nest)
        assert twice(alice, do="nest") == (201, 201, True)
        assert written() == (2, 1)

    def test_a_nested_transaction_of_the_view_falls_with_it(self, alice, monkeypatch):
        def nest_and_fail():
            with transaction.atomic():
                Order.objects.create(reference="nested")
            raise RuntimeError

        monkeypatch.setitem(views.ACTIONS, "nest-and-fail", nest_and_fail)
        assert twice(alice, do="nest-and-fail") == (500, 500, False)
        assert written() == (0, 0)

    def test_a_hook_runs_once_and_finds_the_record_committed(self, alice, monkeypatch):
        seen = []

        def hooked():
            transaction.on_commit(lambda: seen.append((connection.in_atomic_block, *written())))
            return Response(status=201)

        monkeypatch.setitem(views.ACTIONS, "hooked", hooked)
        assert twice(alice, do="hooked") == (201, 201, True)
        assert seen == [(False, 1, 1)]

    @pytest.mark.parametrize("do", ["raise", "raise-400", "return-500"])
    def test_a_hook_of_what_rolled_back_never_runs(self, alice, monkeypatch, do):
        def hooked():
            views.hook()
            return views.ACTIONS[do]()

        monkeypatch.setitem(views.ACTIONS, "hooked", hooked)
        alice.once("/orders/", {"do": "hooked"})
        assert views.HOOKS_RUN == []

    def test_an_error_in_a_hook_is_a_500_and_the_retry_is_replayed(self, alice):
        assert twice(alice, do="failing-hook") == (500, 201, True)
        assert views.HOOKS_RUN == ["hook"]
        assert written() == (1, 1)

    def test_completion_is_announced_after_the_commit(self, alice):
        seen = []

        def receive(**extra):
            seen.append(connection.in_atomic_block)

        signals.completed.connect(receive)
        twice(alice)
        signals.completed.disconnect(receive)
        assert seen == [False]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("do", ["raise-400", "raise-418"])
def test_an_api_error_in_a_hook_does_not_pass_for_the_answer(alice, monkeypatch, do):
    def hooked():
        transaction.on_commit(views.ACTIONS[do])
        return Response(status=201)

    monkeypatch.setitem(views.ACTIONS, "hooked", hooked)
    alice.raise_request_exception = True
    with pytest.raises(APIException):
        alice.once("/orders/", {"do": "hooked"})
    assert alice.once("/orders/", {"do": "hooked"}).status_code == 201


# The wheel

SETTINGS = """
INSTALLED_APPS += ["rest_framework", "idempotency"]
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE"}
ALLOWED_HOSTS = ["*"]
"""
URLS = """
from django.contrib.auth.models import Group
from rest_framework import permissions, routers, serializers, viewsets
from idempotency.mixins import IdempotencyKeyMixin


class GroupSerializer(serializers.ModelSerializer):
    class Meta:
        model = Group
        fields = ("id", "name")
        extra_kwargs = {"name": {"validators": []}}


class GroupViewSet(IdempotencyKeyMixin, viewsets.ModelViewSet):
    queryset = Group.objects.all()
    serializer_class = GroupSerializer
    permission_classes = [permissions.IsAuthenticated]


router = routers.SimpleRouter()
router.register("groups", GroupViewSet)
urlpatterns += router.urls
"""
POST_TWICE = """
import django
django.setup()
import idempotency
from django.contrib.auth.models import Group, User
from django.test import Client

client = Client()
client.force_login(User.objects.create(username="alice"))
answers = [client.post("/groups/", {"name": "a"}, headers={"Idempotency-Key": "k"}) for _ in "ab"]
print(idempotency.__file__)
print([answer.status_code for answer in answers], answers[1]["Idempotency-Replayed"], Group.objects.count())
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def built_wheel(folder):
    """Built from a copy: setuptools writes into the tree that it builds."""
    source = folder / "source"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "idempotency", source / "idempotency", ignore=unwanted)
    for name in ("pyproject.toml", "setup.cfg", "LICENSE", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", source)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="needs no database; once is enough")
def test_the_wheel_works_in_a_new_project(tmp_path):
    wheel = built_wheel(tmp_path)
    package = REPOSITORY / "idempotency"
    files = {str(file.relative_to(REPOSITORY)) for file in package.rglob("*") if file.is_file()}
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in files if "__pycache__" not in name} - packed == set()
    assert "idempotency/py.typed" in packed
    assert not {name.split("/")[0] for name in packed} & {"tests", "shop_example", "benchmarks"}

    site, project = tmp_path / "site", tmp_path / "project"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    project.mkdir()
    run(sys.executable, "-m", "django", "startproject", "shop", project)
    for name, text in (("settings", SETTINGS), ("urls", URLS)):
        with (project / "shop" / f"{name}.py").open("a") as module:
            module.write(text)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO")}
    where = {"cwd": project, "env": {**inherited, "PYTHONPATH": str(site)}}
    run(sys.executable, "manage.py", "makemigrations", "--check", "--dry-run", "idempotency", **where)
    run(sys.executable, "manage.py", "migrate", "--verbosity=0", **where)
    run(sys.executable, "manage.py", "check", "--fail-level=WARNING", "--database=default", **where)
    run(sys.executable, "manage.py", "purge_idempotency", **where)
    script = textwrap.dedent(POST_TWICE)
    where["env"]["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    origin, outcome = run(sys.executable, "-c", script, **where).splitlines()
    assert Path(origin).is_relative_to(site)
    assert outcome == "[201, 201] true 1"
