"""The other side of the wire: an httpx transport that retries what is safe to retry, under one key.

    client = httpx.Client(transport=IdempotencyTransport(), base_url="https://shop.example")
    client.post("/orders/", json={...})

Only for servers that honour the key: to any other, each attempt is another order.
"""

try:
    import httpx  # noqa: F401
except ImportError as error:
    raise ImportError(
        "idempotency.client needs httpx: pip install 'django-idempotency-guard[client]'."
    ) from error

from idempotency.client.keys import key_for, new_key
from idempotency.client.retries import Retries
from idempotency.client.transports import AsyncIdempotencyTransport, IdempotencyTransport

__all__ = ["AsyncIdempotencyTransport", "IdempotencyTransport", "Retries", "key_for", "new_key"]
