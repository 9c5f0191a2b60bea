"""What is outside of the shop, in a process of its own, and what only it knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from shop_example.demo.server import DemoFailure


class OutsideProcess:
    """A service of outside_service.py. Ends with the process that has started it."""

    module: str

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, "0", "--until-eof", *options],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Interrupting the demo is the demo's own business.
            start_new_session=True,
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=self.url, transport=httpx.HTTPTransport(verify=False))
        if not self.url:
            self.close()
            raise DemoFailure(f"{self.module} did not start.")

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def lose_answers(self, reference: str, times: int = 1) -> None:
        """Of its next requests about this reference, each when it is done. It must obey --faults."""
        self._fault(reference=reference, times=times)

    def answer_late(self, reference: str, seconds: float, times: int = 1) -> None:
        """As much later than it is done. It must obey --faults."""
        self._fault(reference=reference, times=times, seconds=seconds)

    def _fault(self, **fault: str | float) -> None:
        self.client.post("/faults", json=fault).raise_for_status()
