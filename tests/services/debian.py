"""Installs what is missing, as root on Debian and its relatives. Anywhere else it does nothing."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.services.base import ROOT, Unavailable, find_executable, run

APT_GET = ("apt-get", "-y", "-o", "DPkg::Lock::Timeout=300")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}


def can_install() -> bool:
    return ROOT and find_executable("apt-get") is not None


def install(packages: Sequence[str]) -> None:
    """Bounded, because a maintainer script may wait for a server that it started. Raises Unavailable."""
    update()
    print(f"  installing {' '.join(packages)}", flush=True)
    run([*APT_GET, "install", "--no-install-recommends", *packages], seconds=900, env=QUIET)


@cache
def update() -> None:
    run([*APT_GET, "update"], seconds=300, env=QUIET)


def missing_build_packages() -> list[str]:
    """What this Python lacks to make a virtual environment and to build mysqlclient in it."""
    packages: dict[str, object] = {
        "gcc": find_executable("gcc"),
        "pkg-config": find_executable("pkg-config"),
        "libmariadb-dev": find_executable("mariadb_config"),
    }
    if sys.base_prefix == "/usr":
        packages["python3-dev"] = (Path(sysconfig.get_path("include")) / "Python.h").exists()
        packages["python3-venv"] = find_spec("ensurepip")
    return [name for name, found in packages.items() if not found]


def prepare_build() -> None:
    missing = missing_build_packages()
    if missing and can_install():
        try:
            install(missing)
        except Unavailable as error:
            print(f"  could not install {' '.join(missing)}: {error}")
