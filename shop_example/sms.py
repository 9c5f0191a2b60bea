"""SMS are sent by a gateway, elsewhere: no transaction of the database's takes one back, and whoever gets no
answer does not know whether it was sent."""

from __future__ import annotations

import httpx
from django.conf import settings

SECONDS = 5


def send(to: str, text: str, reference: str, key: str | None = None) -> None:
    """The gateway sends one under a key, however often it is asked. Raises httpx.HTTPError."""
    headers = {"Idempotency-Key": key} if key else {}
    message = {"to": to, "text": text, "reference": reference}
    wire = httpx.HTTPTransport()
    with httpx.Client(transport=wire, base_url=settings.SMS_GATEWAY_URL, timeout=SECONDS) as gateway:
        gateway.post("/messages", json=message, headers=headers).raise_for_status()
