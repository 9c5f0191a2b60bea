"""Databases of their own, as shards, with processes and commands on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from django.db import connections

from tests import services
from tests.processes import ROOT, environment
from tests.settings import VENDOR

STUCK = 150


class Shards:
    """``names``: of the databases, by alias."""

    def __init__(self, names: dict[str, str], folder: Path):
        self.names, self.folder, self.workers = names, folder, []

    def environment(self, shard_map: dict) -> dict[str, str]:
        return environment(
            DJANGO_SETTINGS_MODULE="tests.processes.shard_settings",
            SHARD_DATABASES=json.dumps(self.names),
            SHARD_MAP=json.dumps(shard_map),
        )

    def command(self, shard_map: dict, *arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments, "--skip-checks"],
            cwd=ROOT,
            env=self.environment(shard_map),
            capture_output=True,
            text=True,
            timeout=STUCK,
        )
        assert (done.returncode != 0) == fails, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def start(self, shard_map: dict, seed: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.processes.sharding", str(self.folder), str(seed)]
        env = self.environment(shard_map)
        self.workers.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
        return self.workers[-1]

    def ask(self, alias: str, sql: str) -> list[tuple]:
        with other_database(self.names[alias]) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        for worker in self.workers:
            kill(worker)


def kill(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    worker.stdout.close()


@contextmanager
def other_database(name: str | None):
    """A cursor in another database of the tests' server."""
    connection = connections["default"].copy()
    connection.settings_dict = {**connection.settings_dict, "NAME": name}
    try:
        connection.ensure_connection()
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@contextmanager
def shard_databases(aliases: list[str]):
    """Made alike, and dropped in the end: names by alias."""
    first = connections["default"].settings_dict["NAME"]
    names = {alias: f"{first}_{alias}" for alias in aliases}
    shards = Shards(names, ROOT)
    server = "postgres" if VENDOR == "postgresql" else None
    whole = {"VERSION": 1, "SLOTS": 1, "MAP": {aliases[0]: "0"}}
    try:
        for number, name in enumerate(names.values()):
            template = f" TEMPLATE {names[aliases[0]]}" if number and VENDOR == "postgresql" else ""
            with other_database(server) as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {name}")
                cursor.execute(f"CREATE DATABASE {name}{template}")
            if not template:
                shards.command(whole, "migrate", "--database", aliases[number], "-v0")
        yield names
    finally:
        force = " WITH (FORCE)" if VENDOR == "postgresql" else ""
        for name in names.values():
            with other_database(server) as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {name}{force}")


def commands_of_docs(vendor: str) -> str:
    """What docs/scaling.md says to run for a move."""
    text = (ROOT / "docs" / "scaling.md").read_text()
    block = text.partition(f"<!-- move: {vendor} -->")[2].partition("```")[2].partition("```")[0]
    return block.partition("\n")[2]


def move_as_documented(source: str, target: str, slots: list[int], orders: str) -> None:
    """Records, tokens and ids as the docs say; ``orders``: columns of the business rows, of which the slot is
    in ``note``."""
    numbers = ", ".join(map(str, slots))
    if VENDOR == "postgresql":
        account = services.sign_in("postgresql")
        url = f"postgresql://{account['USER']}:{account['PASSWORD']}@{account['HOST']}:{account['PORT']}"
        # The business rows as the example's, whose slot is a text here.
        copied = f'copy project_order "{orders}"\n'.replace("copy", "copy_orders")
        own = commands_of_docs(VENDOR)
        function = own[own.index("copy() {") : own.index("}") + 1]
        function = function.replace("copy()", "copy_orders()").replace("slot IN ($SLOTS)", "note IN ($TEXTS)")
        script = f"{own}\n{function}\n{copied}"
        texts = ", ".join(f"'{slot}'" for slot in slots)
        env = {**os.environ, "SOURCE": f"{url}/{source}", "TARGET": f"{url}/{target}", "SLOTS": numbers}
        env["TEXTS"] = texts
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, check=True, timeout=STUCK)
        return
    script = commands_of_docs(VENDOR) + (
        f"INSERT INTO target.project_order ({orders}) SELECT {orders} FROM source.project_order "
        "WHERE note IN (17, 18);"
    )
    script = script.replace("target.", f"{target}.").replace("source.", f"{source}.")
    with other_database(None) as cursor:
        for statement in script.replace("(17, 18)", f"({numbers})").split(";"):
            if statement.strip():
                cursor.execute(statement)
