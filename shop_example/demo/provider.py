"""The payment provider in a process of its own, and what only it knows: how much was charged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from shop_example.demo.server import DemoFailure


class Provider:
    """Ends with the process that has started it."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shop_example.provider", "0", "--until-eof", *options],
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
            raise DemoFailure("The payment provider did not start.")

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def charged(self, reference: str) -> int:
        """Cents that were charged and not given back."""
        moved: dict[str, Any] = self.client.get("/charges", params={"reference": reference}).json()
        charges, refunds = (sum(one["cents"] for one in moved[kind]) for kind in ("charges", "refunds"))
        return charges - refunds

    def lose_answers(self, reference: str, times: int = 1) -> None:
        """Of its next requests about this reference, each when it is done. It must obey --faults."""
        self.client.post("/faults", json={"reference": reference, "times": times}).raise_for_status()
