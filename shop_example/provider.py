"""``python -m shop_example.provider [port]``: a payment provider, which moves the money of cards.

POST /charges {"reference", "cents"}    the charge; 402 where the card is not good for it
POST /refunds {"charge", "reference"}   all of the charge is given back
GET /charges?reference=…                what was charged and given back under a reference

See outside_service.py for what it makes of retries and of --faults.
"""

from __future__ import annotations

import uuid
from typing import Any

from shop_example.outside_service import Answer, Service, serve

MOST_CENTS = 1_000_000
"""For which every card is good."""


class Provider(Service):
    name = "shop_example.provider"
    description = "Move the money of cards, on this machine."
    port = 8010

    def __init__(self) -> None:
        super().__init__()
        self.charges: list[dict[str, Any]] = []
        self.refunds: list[dict[str, Any]] = []

    def do(self, path: str, asked: dict[str, Any]) -> Answer:
        if path == "/charges":
            return self.charge(**asked)
        return self.refund(**asked) if path == "/refunds" else (404, {})

    def tell(self, path: str, asked: dict[str, str]) -> Answer:
        if path != "/charges":
            return 404, {}
        moved, reference = {"charges": self.charges, "refunds": self.refunds}, asked.get("reference", "")
        return 200, {
            kind: [one for one in all_ if one["reference"] == reference] for kind, all_ in moved.items()
        }

    def charge(self, reference: str, cents: int) -> Answer:
        if cents > MOST_CENTS:
            return 402, {"detail": "The card is declined."}
        self.charges.append({"id": f"charge-{uuid.uuid4()}", "reference": reference, "cents": cents})
        return 201, self.charges[-1]

    def refund(self, charge: str, reference: str) -> Answer:
        cents = next((known["cents"] for known in self.charges if known["id"] == charge), None)
        if cents is None:
            return 404, {"detail": "There is no such charge."}
        self.refunds.append({"id": f"refund-{uuid.uuid4()}", "reference": reference, "cents": cents})
        return 201, self.refunds[-1]


if __name__ == "__main__":
    serve(Provider())
