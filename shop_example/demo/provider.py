"""The payment provider, and how much was charged."""

from __future__ import annotations

from typing import Any

from shop_example.demo.outside import OutsideProcess


class Provider(OutsideProcess):
    module = "shop_example.provider"

    def charged(self, reference: str) -> int:
        """Cents that were charged and not given back."""
        moved: dict[str, Any] = self.client.get("/charges", params={"reference": reference}).json()
        charges, refunds = (sum(one["cents"] for one in moved[kind]) for kind in ("charges", "refunds"))
        return charges - refunds
