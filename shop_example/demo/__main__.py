"""``python -m shop_example.demo``: exit code 0 when everything guarded happened exactly once."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = 130
# Until somebody else may go on with what was broken off: a moment, and not the 30 seconds of a real shop.
LEASE_SECONDS = "1"
INTRODUCTION = """\
The shop twice, each under gunicorn (2 processes, 8 threads each) on an SQLite database of its own. Each
line is one operation, or one order's messages, sent again as callers do: in one shop without the guard,
in the other with it. Counted is what it left in the database. A retry with a key gets the first answer
again (replays), and one with a token that is used is told so (refused). A message about an order is kept
while it is too early (kept), and changes nothing when it comes too late or again (ignored).

Paying by card leaves the database: an order is reserved, its card is charged by a provider in a process of
its own, the order is marked paid. What the provider did is not undone when the shop is killed, nor known
when its answer is lost. With the guard each step is a point from which the caller's retry goes on, or
`manage.py complete_idempotency` where that comes late or never (resumed by).

Who has paid gets an SMS. The message about it is stored with the payment, in the outbox, and goes out by
`manage.py publish_outbox`. Two machines (processes of `manage.py consume`) take it from a broker (a folder of
files, so that none is needed), and ask a gateway, in a process of its own, for the SMS (asked); what it has
sent is counted there (SMS). With the guard a copy that reaches another machine while the first one waits for
a slow gateway is put off (put off), and one of what was done changes nothing (skipped). Where the gateway's
answer is lost, nobody knows whether the SMS was sent: it is asked for again, under the same key.

The last three are no requests: each run is a process of its own, as on another machine, on the same
database. The column "guard" says what keeps the runs apart. A lock alone is not enough where a run comes
when the lock was released, nor where its holder is halted (SIGSTOP) for longer than it holds.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shop_example.demo",
        description="Play the shop's scenarios over HTTP, with and without the guard, and count the effects.",
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

    from shop_example.demo.provider import Provider
    from shop_example.demo.server import DemoFailure
    from shop_example.demo.sms_gateway import SmsGateway

    shops: Any = ()
    try:
        with ExitStack() as closing:
            provider = Provider("--faults")
            closing.callback(provider.close)
            gateway = SmsGateway("--faults")
            closing.callback(gateway.close)
            use_settings(folder, provider.url)
            scenarios, shops = prepare(folder, provider, gateway)
            for shop in shops:
                closing.callback(shop.close)
            # Comes first: an impatient second Ctrl-C must not leave half of it behind.
            closing.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            open_all(shops)
            code = play_all(scenarios, shops)
    except DemoFailure as failure:
        words = "\n".join(shop.server.last_words() for shop in shops)
        print(f"\nThe demo failed: {failure}\n{words}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - started:.0f} seconds; nothing is left running.)")
    return code


def use_settings(folder: Path, provider_url: str) -> None:
    """Databases of its own, whatever the environment says about the shop's."""
    for name in [name for name in os.environ if name.startswith("SHOP_")]:
        del os.environ[name]
    os.environ["SHOP_DATABASE"] = str(folder / "unguarded.sqlite3")
    os.environ["SHOP_PROVIDER_URL"] = provider_url
    os.environ["SHOP_LEASE_SECONDS"] = LEASE_SECONDS
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop_example.settings"

    import django
    from django.conf import settings

    from shop_example.databases import sqlite

    settings.DATABASES["guarded"] = sqlite(folder / "guarded.sqlite3")
    django.setup()


def prepare(folder: Path, provider: Any, gateway: Any) -> tuple[Any, Any]:
    """The scenarios, and two shops with the same rows to play them in: without the guard, and with it."""
    from django.core.management import call_command
    from django.db import connection

    from shop_example import samples
    from shop_example.demo.programme import programme
    from shop_example.demo.server import Server
    from shop_example.demo.shop import Shop

    call_command("migrate", verbosity=0)
    samples.create_samples()
    prepared = programme(provider, gateway)
    tokens = {
        name: samples.token_of(name) for name in (samples.CUSTOMER, samples.ORDER_SERVICE, samples.WAREHOUSE)
    }
    # Closing writes the log back into the file.
    connection.close()
    unguarded, guarded = folder / "unguarded.sqlite3", folder / "guarded.sqlite3"
    shutil.copyfile(unguarded, guarded)
    same = {"SHOP_PROVIDER_URL": provider.url, "SHOP_SMS_GATEWAY_URL": gateway.url}
    same |= {"SHOP_LEASE_SECONDS": LEASE_SECONDS}
    return prepared, (
        Shop(Server(folder / "unguarded", unguarded, **same), "default", tokens, guarded=False),
        Shop(Server(folder / "guarded", guarded, **same), "guarded", tokens, guarded=True),
    )


def open_all(shops: Any) -> None:
    from shop_example.demo import machines
    from shop_example.demo.plays import side_by_side

    side_by_side(*[shop.open for shop in shops])
    machines.load()


def play_all(scenarios: Any, shops: Any) -> int:
    from shop_example.demo import table

    print(table.halves())
    lines: list[Any] = []
    columns = None
    for number, scenario in enumerate(scenarios, 1):
        print(f"\n{number} {scenario.title}: {scenario.called}")
        if scenario.columns != columns:
            print(table.headings(scenario))
            columns = scenario.columns
        for play in scenario.plays:
            unguarded, guarded = scenario.play(play, shops)
            print(table.row(scenario, play, unguarded, guarded), flush=True)
            lines.append((play, unguarded, guarded))
        scenario.end(shops)
    return conclude(lines)


def conclude(lines: list[Any]) -> int:
    wrong = [guarded for _, _, guarded in lines if not guarded.is_right]
    failed = [unguarded for _, unguarded, _ in lines if not unguarded.is_once]
    harmless = [play for play, unguarded, _ in lines if play.harms and unguarded.is_once]
    print(f"\nWithout the guard, {len(failed)} of {len(lines)} were not done exactly once.")
    if wrong:
        print(f"With the guard, {len(wrong)} were not either: the guard is broken.")
        return 1
    if harmless:
        print(f"But {len(harmless)} that should have gone wrong did not, so this run proves nothing.")
        return 1
    print(f"With it, each of the {len(lines)} was done exactly once, and no caller was told anything else.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
