"""``manage.py publish_outbox``: what it says, and how it exits."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from idempotency.models import OutboxMessage
from tests.outbox.conftest import send

pytestmark = pytest.mark.django_db(transaction=True)


def command(*arguments, **options):
    out, err = StringIO(), StringIO()
    try:
        call_command("publish_outbox", *arguments, stdout=out, stderr=err, **options)
    except CommandError as error:
        return out.getvalue(), f"{err.getvalue()}{error}"
    return out.getvalue(), err.getvalue()


def test_the_command_publishes_what_waits_and_says_how_much():
    send("a", "b")
    assert command() == ("2 messages published from database 'default'.\n", "")
    assert command("-v0") == ("", "")


def test_the_command_says_what_failed_and_why(refuse):
    send("a", "b")
    refuse("a")
    out, err = command()
    assert out == "1 message published from database 'default'.\n"
    assert "(default) q a: LookupError: not that one" in err
    assert "Some failed, and are tried again later" in err


def test_the_command_says_what_is_missing(settings, monkeypatch):
    send("a")
    settings.IDEMPOTENCY_BROKERS = {"default": {"URL": "amqp://guest:guest@127.0.0.1:1//"}}
    assert "was not published. 'default': ConnectionRefusedError" in command()[1]
    settings.IDEMPOTENCY_BROKERS = {"default": {}}
    assert "needs a URL" in command()[1]
    del settings.IDEMPOTENCY_BROKERS
    assert "IDEMPOTENCY_BROKERS is not set" in command()[1]
    assert "--batch-size takes" in command("--batch-size=0")[1]
    assert "--interval takes" in command("--interval=0")[1]
    assert "There is no database 'x'" in command("--database=x")[1]


def test_the_command_names_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "kombu", None)
    monkeypatch.delitem(sys.modules, "idempotency.brokers", raising=False)
    assert "pip install 'django-idempotency-guard[kombu]'" in command()[1]


def test_the_command_says_that_the_table_is_missing(monkeypatch):
    monkeypatch.setattr(OutboxMessage._meta, "db_table", "idempotency_no_such_table")
    assert "is `migrate` done there?" in command()[1]


def test_nothing_imports_kombu_before_something_is_published():
    program = (
        "import sys, django; django.setup(); from idempotency import outbox; import idempotency.admin; "
        "from idempotency.management.commands import publish_outbox; sys.exit('kombu' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
