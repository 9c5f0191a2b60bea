"""
Runs the test suite once per database that can be had, then what is marked for other ways to reach PostgreSQL.

`python -m tests.run [pytest arguments]`. One run alone: `TEST_DATABASE=mariadb python -m pytest`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.services import CI, SERVICES, missing

REPORTS = Path("build/tests")
NO_TESTS_COLLECTED = 5


@dataclass
class Run:
    title: str
    environment: dict[str, str]
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    status: str = ""
    seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> bool:
        return self.status == "failed" or (CI and self.status == "not run")

    def execute(self, extra: list[str]) -> None:
        lacking = [reason for name in self.needs if (reason := missing(name))]
        headline(self.title)
        if lacking:
            print("\n".join(lacking), flush=True)
            self.status = "not run"
            return
        report = REPORTS / f"{self.title.replace(' ', '-')}.xml"
        report.unlink(missing_ok=True)
        # Three on two processors: many tests wait more than they compute.
        command = [sys.executable, "-m", "pytest", "-n3", "--dist=worksteal", f"--junit-xml={report}"]
        began = time.monotonic()
        status = subprocess.run([*command, *self.arguments, *extra], env={**os.environ, **self.environment})
        self.seconds = time.monotonic() - began
        # A run that collects nothing has lost its tests, unless the caller selected some.
        empty = status.returncode == NO_TESTS_COLLECTED and extra
        self.status = "no tests" if empty else "failed" if status.returncode else "passed"
        self.counts = count(report)


RUNS = [
    Run("sqlite", {"TEST_DATABASE": "sqlite"}),
    Run("postgresql", {"TEST_DATABASE": "postgresql"}, ("postgresql",)),
    Run("mariadb", {"TEST_DATABASE": "mariadb"}, ("mariadb",)),
    Run(
        "psycopg 3",
        {"TEST_DATABASE": "postgresql", "TEST_PSYCOPG": "3"},
        ("postgresql",),
        ("-m", "psycopg3 and not soak"),
    ),
    Run(
        "pgbouncer",
        {"TEST_DATABASE": "pgbouncer"},
        ("postgresql", "pgbouncer"),
        ("-m", "pgbouncer and not soak"),
    ),
]


def headline(text: str) -> None:
    print(f"\n{f' {text} ':=^100}", flush=True)


def count(report: Path) -> Counter[str]:
    if not report.exists():
        return Counter()
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = Counter[str]()
    for suite in suites:
        found = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        counts["failed"] += found["failures"]
        counts["skipped"] += found["skipped"]
        counts["errors"] += found["errors"]
        counts["passed"] += found["tests"] - found["failures"] - found["errors"] - found["skipped"]
    return counts


def describe(counts: Counter[str]) -> str:
    return ", ".join(
        f"{counts[name]} {name}" for name in ("failed", "passed", "skipped", "errors") if counts[name]
    )


def main() -> int:
    REPORTS.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        run.execute(sys.argv[1:])

    headline("summary")
    absent = [reason for name in SERVICES if (reason := missing(name))]
    for reason in absent:
        print(f"{'missing in CI' if CI else 'skipped'}: {reason}")
    for run in RUNS:
        print(f"{run.title:<12} {run.status:<8} {run.seconds:>7.1f} s  {describe(run.counts)}")
    total = sum((run.counts for run in RUNS), Counter[str]())
    # Worded as pytest words its own last line, for whatever reads only that.
    headline(f"{describe(total) or 'no tests ran'} in {sum(run.seconds for run in RUNS):.2f}s")
    return 1 if any(run.failed for run in RUNS) or (CI and absent) else 0


if __name__ == "__main__":
    sys.exit(main())
