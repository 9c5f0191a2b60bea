"""What races and crashes are made of: a real server, many clients, and processes that die on a line."""

import os
from pathlib import Path

from django.db import connection

ROOT = Path(__file__).parents[2]


def environment(**options: str) -> dict[str, str]:
    """The environment of a process on the database that this test runs on."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        name = os.path.abspath(name)
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.processes.settings",
        "SERVED_DATABASE": name,
        **options,
    }
