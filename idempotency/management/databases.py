"""In which databases a command is to work; and that it works at each, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connections
from django.db.models import Model

from idempotency.purging import Purge
from idempotency.shards.maps import in_ranges, shard_map
from idempotency.shards.routing import all_databases
from idempotency.shards.stored import Known, known


def chosen_databases(model: type[Model], database: str | None) -> Sequence[str]:
    """The one that was asked for, else all in which there may be rows. Raises CommandError."""
    found = (database,) if database else all_databases(model)
    for using in found:
        if using not in connections:
            aliases = ", ".join(connections)
            raise CommandError(f"There is no database {using!r}: --database takes one of {aliases}.")
    return found


def in_turn(command: BaseCommand, databases: Sequence[str], work: Callable[[str], None]) -> None:
    """One that fails does not keep the others from being done. Raises CommandError when one has."""
    if len(databases) == 1:
        return work(databases[0])
    failed = []
    for using in databases:
        try:
            work(using)
        except CommandError as error:
            command.stderr.write(f"{using}: {error}")
            failed.append(using)
    if failed:
        raise CommandError(f"Not everything was done in {', '.join(failed)}: see the reasons above.")


def require_same_map() -> None:
    """Raises CommandError where a shard does not have the map of the settings. One that does not answer is
    not asked: what is to be done there fails by itself."""
    if (shards := shard_map()) and (
        said := [line for each in reached() for line in each.differences(shards)]
    ):
        raise CommandError(
            f"This process's shard map is not that of the shards, and nothing was done. {' '.join(said)}"
        )


def require_nothing_moves() -> None:
    """Raises CommandError while slots are frozen: of their rows there may be copies on another shard."""
    if frozen := sorted(frozenset().union(*(each.frozen for each in reached()))):
        raise CommandError(
            f"Slots {in_ranges(frozen)} are frozen, and their rows may be on two shards: run the command "
            "again when the move is over."
        )


def reached() -> list[Known]:
    found = []
    shards = shard_map()
    for alias in shards.aliases if shards else ():
        try:
            found.append(known(alias))
        except Error:
            continue
    return found


class Purges:
    """One for each of several databases, one after the other. ``seconds`` are for all together: each gets an
    equal share of what those before it have left, so that none is always the one that is not come to."""

    def __init__(
        self,
        databases: Sequence[str],
        batch_size: int,
        seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batch_size, self.seconds, self.clock = batch_size, seconds, clock
        self._waiting = len(databases)
        self._started_at = clock()

    def on(self, using: str) -> Purge:
        share = None
        if self.seconds is not None:
            left = self.seconds - (self.clock() - self._started_at)
            share = max(0.0, left) / self._waiting
        self._waiting -= 1
        return Purge(using, self.batch_size, share, self.clock)
