"""The other packages on PyPI, each in front of the same endpoint as its own documents say.

They live in a virtual environment of their own below build/, with the Django that is measured here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = {
    "django-idempotency-key": "1.3.0",
    "djangorestframework-idempotency-key": "1.0.3",
    "drf-idempotencykey": "0.2.0",
}
MEASURED = ("Django", "djangorestframework", "psycopg2-binary", "psycopg", "psycopg-binary")
FOLDER = Path("build/benchmark-others")


def install() -> tuple[str | None, str]:
    """The Python that has them, or None and the reason."""
    python = FOLDER / "bin" / "python"
    needed = [f"{name}=={number}" for name, number in PACKAGES.items()]
    needed += [f"{name}=={version(name)}" for name in MEASURED]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needed]
    for command in ([sys.executable, "-m", "venv", str(FOLDER)], pip):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            return None, str(error)
        if done.returncode:
            return None, (done.stdout.strip().splitlines() or ["failed"])[-1]
    return str(python), ""


def guarded_views(package: str) -> list[Callable[..., Any]]:
    """The endpoint behind the package that the settings are for; empty for none."""
    from benchmarks.views import BareView

    if package == "django-idempotency-key":
        from idempotency_key.decorators import idempotency_key

        return [idempotency_key(BareView.as_view())]
    if package == "djangorestframework-idempotency-key":
        from rest_framework_idempotency_key.decorators import simple_idempotency_key_method

        class Decorated(BareView):
            post = simple_idempotency_key_method(BareView.post)

        return [Decorated.as_view()]
    if package == "drf-idempotencykey":
        from drf_idempotencykey.mixins import DrfIdempotencyKeyMixin

        class Mixed(DrfIdempotencyKeyMixin, BareView):
            pass

        return [Mixed.as_view()]
    return []
