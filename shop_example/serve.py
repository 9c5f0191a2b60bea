"""``python -m shop_example.serve [port]``: the shop and its admin, to click through.

With a payment provider of its own.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import uuid
from contextlib import closing

from shop_example.demo.provider import Provider

HOST = "127.0.0.1"

TEXT = """
The shop runs at {base}/

  {base}/checkout/  a page to order on: send its form twice, and there is one order
  {base}/api/       products, orders, payments, checkouts (sign in as alice, password alice)
  {base}/admin/     the shop's rows, and the records of its operations (admin, password admin)

Place an order. Then send the very same line again, as after a timeout: the second answer is the first
one, marked "Idempotency-Replayed: true", and there is one order.

  curl -i {base}/api/orders/ \\
    -H 'Authorization: Token {token}' \\
    -H 'Idempotency-Key: {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"product": {product}, "quantity": 2}}'

At {base}/api/unguarded/orders/ the same order is written twice.

An order is paid by card when its number is sent to {base}/api/card-payments/
with a key of its own, as {{"order": 1}}. The provider that charges the card is at {provider}

A paid order leaves a message in the outbox, for the SMS to its customer. What publishes it, what handles it,
and the gateway that sends the SMS:

  {python} manage.py publish_outbox
  {python} manage.py consume sms.order-paid
  {python} -m shop_example.sms_gateway
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop_example.serve", description=__doc__)
    parser.add_argument("port", nargs="?", type=int, default=8000)
    port = parser.parse_args().port
    refuse_taken(port)
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop_example.settings"
    # Django's own server hands out the admin's styles only in debug mode.
    os.environ["SHOP_DEBUG"] = "1"

    with closing(Provider()) as provider:
        os.environ["SHOP_PROVIDER_URL"] = provider.url
        serve(port)


def serve(port: int) -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    print(introduction(f"http://{HOST}:{port}"), flush=True)
    call_command("runserver", f"{HOST}:{port}", use_reloader=False)


def introduction(base: str) -> str:
    from django.conf import settings

    from shop_example import samples
    from shop_example.models import Product

    samples.create_samples()
    samples.create_administrator()
    product = Product.objects.get(name=samples.PRODUCTS[0][0])
    return TEXT.format(
        base=base,
        token=samples.token_of(samples.CUSTOMER),
        key=uuid.uuid4(),
        product=product.pk,
        provider=settings.PROVIDER_URL,
        python=sys.executable,
    )


def refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise SystemExit(
                f"Port {port} cannot be used ({error}). Another one: make run ARGS=8001"
            ) from None


if __name__ == "__main__":
    main()
