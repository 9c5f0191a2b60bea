"""``python -m shop_example.demo``: exit code 0 when everything guarded happened exactly once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = 130
INTRODUCTION = """\
A shop under gunicorn (2 processes, 8 threads each) on an SQLite database of its own. Each line is one
operation, sent again as callers do, first without the guard and then with it. Counted is what it left
in the database.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shop_example.demo",
        description="Play three scenarios over HTTP, with and without the guard, and count the effects.",
    )
    parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, leave)
    try:
        with tempfile.TemporaryDirectory(prefix="shop-", ignore_cleanup_errors=True) as folder:
            return demonstrate(Path(folder))
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is left running.", file=sys.stderr)
        return INTERRUPTED


def leave(number: int, frame: Any) -> NoReturn:
    """Leave by an exception, so that everything is cleaned up on the way."""
    raise SystemExit(128 + number)


def demonstrate(folder: Path) -> int:
    started = time.monotonic()
    print(INTRODUCTION, flush=True)
    set_up(folder)

    from shop_example.demo.server import DemoFailure, Server

    server = Server(folder)
    try:
        with server:
            code = play_all(server)
    except DemoFailure as failure:
        print(f"\nThe demo failed: {failure}\n{server.last_words()}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - started:.0f} seconds; nothing is left running.)")
    return code


def set_up(folder: Path) -> None:
    """A database of its own, whatever the environment says about the shop's."""
    for name in [name for name in os.environ if name.startswith("SHOP_")]:
        del os.environ[name]
    os.environ["SHOP_DATABASE"] = str(folder / "shop.sqlite3")
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop_example.settings"

    import django
    from django.core.management import call_command

    django.setup()
    from shop_example.samples import create_samples

    call_command("migrate", verbosity=0)
    create_samples()


def play_all(server: Any) -> int:
    from shop_example.demo import table
    from shop_example.demo.plays import PLAYS
    from shop_example.demo.scenarios import scenarios, tokens

    print(table.heading())
    token, lines = tokens(server), []
    for number, scenario in enumerate(scenarios(), 1):
        print(f"\n{number} {scenario.title}: POST /api/{scenario.resource}/")
        for play in PLAYS:
            unguarded, guarded = (
                scenario.play(play, server, token[scenario.user], guarded=on) for on in (False, True)
            )
            print(table.row(scenario, play, unguarded, guarded), flush=True)
            lines.append((scenario, play, unguarded, guarded))
    return conclude(lines)


def conclude(lines: list[Any]) -> int:
    wrong = [guarded for scenario, _, _, guarded in lines if not scenario.is_right(guarded)]
    repeated = [play for scenario, play, unguarded, _ in lines if unguarded.effects != scenario.wanted]
    harmless = [
        play
        for scenario, play, unguarded, _ in lines
        if play.doubles and unguarded.effects == scenario.wanted
    ]
    print(f"\nWithout the guard, {len(repeated)} of {len(lines)} operations were not done exactly once.")
    if wrong:
        print(f"With the guard, {len(wrong)} were not either: the guard is broken.")
        return 1
    if harmless:
        print(f"But {len(harmless)} that should have been repeated were not, so this run proves nothing.")
        return 1
    print(f"With it, each of the {len(lines)} was done exactly once, and all its callers were told the same.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
