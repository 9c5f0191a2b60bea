"""The SMS gateway, and what was sent."""

from __future__ import annotations

from typing import Any

from shop_example.demo.outside import OutsideProcess


class SmsGateway(OutsideProcess):
    module = "shop_example.sms_gateway"

    def sent(self, reference: str) -> int:
        return len(self._told(reference)["messages"])

    def asked(self, reference: str) -> int:
        """How often that was asked for."""
        return int(self._told(reference)["asked"])

    def _told(self, reference: str) -> dict[str, Any]:
        told: dict[str, Any] = self.client.get("/messages", params={"reference": reference}).json()
        return told
