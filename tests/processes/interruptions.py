"""A time limit's exception, where it does the most harm."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from unittest.mock import patch


class TimeLimit(BaseException):
    """As a signal's handler raises it."""


@contextmanager
def interrupted_after_sending(name: str):
    """The first command of this name is sent to Redis, and its answer is read by nobody. Nor is any answer
    there yet when its connection is taken again, as on a slow network."""
    from redis.connection import AbstractConnection

    send = AbstractConnection.send_command
    left = [name]

    def send_and_be_stopped(connection, *args, **kwargs):
        send(connection, *args, **kwargs)
        if left == [args[0]]:
            left.clear()
            raise TimeLimit

    with (
        patch.object(AbstractConnection, "send_command", send_and_be_stopped),
        patch.object(AbstractConnection, "can_read", lambda self, timeout=0: False),
    ):
        yield
    assert not left, f"no {name} was sent"


@contextmanager
def time_limit(seconds: float | None = None):
    """After so many seconds; or whenever the signal is raised."""

    def handle(*args):
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds or 0)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def interrupted_in(file: str, function: str):
    """A real signal while the first line of the function runs."""

    def stop(frame, event, argument):
        sys.settrace(None)
        signal.raise_signal(signal.SIGALRM)

    def trace(frame, event, argument):
        code = frame.f_code
        return stop if code.co_filename.endswith(file) and code.co_name == function else None

    with time_limit():
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(None)
