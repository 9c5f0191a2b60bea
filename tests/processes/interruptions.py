"""A time limit's exception between a command and its answer, where redis-py knows nothing of it."""

from __future__ import annotations

from contextlib import contextmanager
from unittest.mock import patch

from redis.connection import AbstractConnection


class TimeLimit(BaseException):
    """As a signal's handler raises it."""


@contextmanager
def interrupted_after_sending(name: str):
    """The first command of this name is sent, and its answer is read by nobody. Nor is any answer there
    yet when its connection is taken again, as on a slow network."""
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
