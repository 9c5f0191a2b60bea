"""The demo's result, a line at a time."""

from __future__ import annotations

from shop_example.demo.plays import Play
from shop_example.demo.scenarios import Outcome, Scenario

LABEL = 22
HALF = "{:>5}{:>7}{:>6}{:>7}"
UNGUARDED = HALF + "  {:<4}"
GUARDED = HALF + "{:>8}{:>8}  {:<5}"


def heading() -> str:
    columns = ("sent", "orders", "stock", "money")
    unguarded = UNGUARDED.format(*columns, "")
    guarded = GUARDED.format(*columns, "replays", "refused", "")
    left, right = (
        f" {title} ".center(len(half) - 1, "-")
        for title, half in (("without the guard", unguarded), ("with the guard", guarded))
    )
    return f"{'':{LABEL}}  {left}   {right}\n{'':{LABEL}} {unguarded}  {guarded}".rstrip()


def row(scenario: Scenario, play: Play, unguarded: Outcome, guarded: Outcome) -> str:
    left = UNGUARDED.format(*half(unguarded), verdict(scenario, unguarded))
    done = "once" if scenario.is_right(guarded) else "WRONG"
    right = GUARDED.format(*half(guarded), guarded.replays, guarded.refusals, done)
    return f"  {play.title:{LABEL - 2}} {left}  {right}".rstrip()


def half(outcome: Outcome) -> tuple[str, ...]:
    orders, stock, cents = outcome.effects
    return (str(outcome.sent), str(orders), str(stock), f"{cents / 100:.2f}")


def verdict(scenario: Scenario, outcome: Outcome) -> str:
    times = times_done(scenario, outcome)
    return {None: "WRONG", 1: "once"}.get(times, f"x {times}")


def times_done(scenario: Scenario, outcome: Outcome) -> int | None:
    """How often the operation's whole effect happened; None when its parts disagree."""
    for times in range(outcome.sent + 1):
        if outcome.effects == tuple(times * part for part in scenario.wanted):
            return times
    return None
