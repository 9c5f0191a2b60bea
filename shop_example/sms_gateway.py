"""``python -m shop_example.sms_gateway [port]``: a gateway, which sends an SMS whenever it is asked to.

POST /messages {"to", "text", "reference"}   the message
GET /messages?reference=…                    what was sent under a reference, and how often it was asked to;
                                             without one, under any

See outside_service.py for what it makes of retries and of --faults.
"""

from __future__ import annotations

import uuid
from typing import Any

from shop_example.outside_service import Answer, Service, serve


class SmsGateway(Service):
    name = "shop_example.sms_gateway"
    description = "Send text messages, on this machine and to nobody."
    port = 8011

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    def do(self, path: str, asked: dict[str, Any]) -> Answer:
        return self.send(**asked) if path == "/messages" else (404, {})

    def tell(self, path: str, asked: dict[str, str]) -> Answer:
        if path != "/messages":
            return 404, {}
        wanted = asked.get("reference")
        messages = [sent for sent in self.sent if wanted in (None, sent["reference"])]
        times = self.asked.total() if wanted is None else self.asked[wanted]
        return 200, {"messages": messages, "asked": times}

    def send(self, to: str, text: str, reference: str) -> Answer:
        self.sent.append({"id": f"sms-{uuid.uuid4()}", "to": to, "text": text, "reference": reference})
        return 201, self.sent[-1]


if __name__ == "__main__":
    serve(SmsGateway())
