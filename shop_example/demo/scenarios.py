"""What is played, and what a play comes to: counted in the database itself, and in the callers' answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

from shop_example.demo import plays
from shop_example.demo.plays import Play
from shop_example.demo.shop import Shop


class Column(NamedTuple):
    heading: str
    width: int


@dataclass(frozen=True)
class Outcome:
    """In one of the shops."""

    sent: int
    #: Under the columns of what is counted, and of what callers were told.
    counted: tuple[str, ...]
    told: tuple[str, ...]
    #: How often the whole effect happened; None when its parts disagree.
    times: int | None
    is_told_truly: bool

    @property
    def is_once(self) -> bool:
        return self.times == 1

    @property
    def is_right(self) -> bool:
        """One effect, and nobody was told anything else."""
        return self.is_once and self.is_told_truly


class Trial(Protocol):
    """What is sent, or run, in one of the shops, and then looked at."""

    @property
    def callers(self) -> tuple[Any, ...]: ...

    def outcome(self) -> Outcome: ...


@dataclass(frozen=True, kw_only=True)
class Scenario:
    title: str
    plays: tuple[Play, ...]

    #: Over how many callers there were.
    sent: ClassVar[str] = "sent"
    #: In both halves of the table; as wide together as those of other scenarios.
    counted: ClassVar[tuple[Column, ...]]
    #: In the guard's half only.
    told: ClassVar[tuple[Column, ...]]

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.counted + self.told

    @property
    def called(self) -> str:
        """What is played, as it is called."""
        raise NotImplementedError

    def begin(self, shop: Shop, play: Play) -> Trial:
        raise NotImplementedError

    def end(self, shops: tuple[Shop, ...]) -> None:
        """When all is played."""

    def play(self, play: Play, shops: tuple[Shop, ...]) -> list[Outcome]:
        """In each of the shops, at the same time."""
        for shop in shops:
            shop.server.marker.unlink(missing_ok=True)
        trials = [self.begin(shop, play) for shop in shops]
        plays.side_by_side(
            *[
                partial(play.run, shop.server, *trial.callers)
                for shop, trial in zip(shops, trials, strict=True)
            ]
        )
        return [trial.outcome() for trial in trials]


@dataclass(frozen=True, kw_only=True)
class HTTPScenario(Scenario):
    #: Of the operation with the guard, and of its twin.
    paths: tuple[str, str]

    @property
    def called(self) -> str:
        return f"POST {self.paths[0]}"

    def path(self, shop: Shop) -> str:
        guarded, unguarded = self.paths
        return guarded if shop.guarded else unguarded


def resource(name: str) -> tuple[str, str]:
    return f"/api/{name}/", f"/api/unguarded/{name}/"
