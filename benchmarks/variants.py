"""What is compared with what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    letter: str
    label: str
    path: str
    keyed: bool = True
    replays: bool = False
    goal: float | None = None
    # Alias in IDEMPOTENCY_TOKENS: each request brings a token of its own.
    tokens: str = ""


@dataclass(frozen=True)
class Setup:
    """Variants that are measured in turn within one process; ratios are to the first."""

    title: str
    variants: tuple[Variant, ...]
    atomic_requests: bool = False


def guarded(suffix: str = "") -> tuple[Variant, ...]:
    return (
        Variant("a", "bare", f"/bare{suffix}/", keyed=False),
        Variant("c", "guarded, fresh key", f"/guarded{suffix}/"),
        Variant("d", "guarded, replay", f"/guarded{suffix}/", replays=True),
    )


OWN = Setup(
    "the view has a transaction.atomic() of its own",
    (
        Variant("a", "bare", "/bare/", keyed=False),
        Variant("b", "bare and one INSERT of the record's bytes", "/insert/", keyed=False),
        Variant("c", "guarded, fresh key", "/guarded/", goal=1.25),
        Variant("d", "guarded, replay", "/guarded/", replays=True, goal=0.17),
        Variant("e", "only the SELECT that a replay needs", "/lookup/", keyed=False),
    ),
)
FLAT = Setup("without an atomic of its own: the bare view commits three times", guarded("-flat"))
REQUESTS = Setup("ATOMIC_REQUESTS, and no atomic of its own", guarded("-flat"), atomic_requests=True)
OTHER = Setup(
    "the view has a transaction.atomic() of its own",
    (
        Variant("a", "bare", "/bare/", keyed=False),
        Variant("c", "fresh key", "/other/"),
        Variant("d", "replay", "/other/", replays=True),
    ),
)
TOKENS = Setup(
    "one-time tokens, fetched before; the view has a transaction.atomic() of its own",
    (
        Variant("a", "bare", "/bare/", keyed=False),
        Variant("f", "token on Redis", "/token/", keyed=False, tokens="redis", goal=1.15),
        Variant("g", "token on Redis, restored on failure", "/restoring/", keyed=False, tokens="redis"),
        Variant("h", "token in the database of the work", "/joint/", keyed=False, tokens="default"),
        Variant("i", "fresh key, and a token on Redis", "/token-and-key/", tokens="redis"),
    ),
)
LEASES = Setup(
    "mode lease; the view has a transaction.atomic() of its own",
    (
        Variant("a", "bare", "/bare/", keyed=False),
        Variant("c", "atomic, fresh key", "/guarded/"),
        Variant("j", "lease, fresh key", "/leased/", goal=1.6),
        Variant("k", "lease, fresh key, may be run again", "/leased-again/"),
        Variant("l", "lease, fresh key, in one database step", "/stepped/"),
        Variant("m", "lease, replay", "/leased/", replays=True),
    ),
)
SETUPS = {"leases": LEASES, "tokens": TOKENS, "own": OWN, "flat": FLAT, "requests": REQUESTS, "other": OTHER}
THROUGHPUT_GOAL = 0.85
