"""What races and crashes are made of: a real server, many clients, and processes that die on a line."""

import os
from pathlib import Path

from django.db import connections

ROOT = Path(__file__).parents[2]


def environment(**options: str) -> dict[str, str]:
    """The environment of a process on the databases that this test runs on."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.processes.settings",
        "SERVED_DATABASE": database_name("default"),
        "SERVED_ELSEWHERE": database_name("elsewhere"),
        **options,
    }


def database_name(alias: str) -> str:
    name = str(connections[alias].settings_dict["NAME"])
    return os.path.abspath(name) if connections[alias].vendor == "sqlite" else name
