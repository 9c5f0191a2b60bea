"""Gunicorn's side of the demo: real worker processes, of which none outlives the demo."""

import os
import signal
import threading
from typing import Any

wsgi_app = "shop_example.wsgi:application"
bind = f"fd://{os.environ.get('SHOP_LISTENER', '')}"
worker_class = "gthread"
workers = 2
threads = 8
# Imported once instead of by each worker: the demo starts it a dozen times.
preload_app = True
worker_tmp_dir = os.environ.get("TMPDIR")


def on_starting(server: Any) -> None:
    threading.Thread(target=die_with_the_demo, daemon=True).start()


def die_with_the_demo() -> None:
    """Standard input is a pipe that only ends with the process that started this one."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)
