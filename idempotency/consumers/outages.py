"""Errors of a handler that say nothing about its message: a database went away under it."""

from __future__ import annotations

from django.db import InterfaceError, OperationalError

from idempotency.database import error_number, sqlstate

# Class of SQLSTATE: connection exception. Codes: too many connections, shutdown, crash, starting up.
AWAY_CLASS, AWAY_STATES = "08", frozenset({"53300", "57P01", "57P02", "57P03"})
# Too many connections; shutdown; the connection was killed; cannot connect, has gone away, was lost.
AWAY_NUMBERS = frozenset({1040, 1053, 1927, 2002, 2003, 2005, 2006, 2013, 2055})


def is_away(error: BaseException) -> bool:
    """Whether any database could not be reached, or its session ended. Narrower than ``is_outage()``: MySQL
    calls a missing column an operational error too, and a retry mends none."""
    if isinstance(error, InterfaceError):
        return "cursor" not in str(error)
    if not isinstance(error, OperationalError):
        return False
    if number := error_number(error):
        return number in AWAY_NUMBERS
    if state := sqlstate(error):
        return state.startswith(AWAY_CLASS) or state in AWAY_STATES
    if type(error.__cause__).__module__ == "sqlite3":
        return "locked" in str(error) or "unable to open" in str(error)
    # libpq has no code for what it noticed itself.
    return True
