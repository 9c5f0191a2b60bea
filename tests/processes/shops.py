"""The example shop under a server, on a database of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from contextlib import contextmanager

from shop_example.demo.client import Message, request
from shop_example.demo.server import Server
from tests import services
from tests.processes import ROOT
from tests.settings import VENDOR

FILL = """
import django
django.setup()
from django.core.management import call_command
from shop_example import samples
call_command("migrate", verbosity=0)
samples.create_samples()
"""


class Shop:
    """What the sample users do in it. Stock and money are counted as they are shown to a customer."""

    def __init__(self, server):
        self.server, self.port = server, server.port
        self.tokens = {}

    def send(self, user, path, method="POST", **payload):
        answer = self.request(user, path, payload, method=method)
        return answer.status, json.loads(answer.body)

    def request(self, user, path, payload, key=None, fault="", **options):
        headers = {"Content-Type": "application/json", "Idempotency-Key": key or str(uuid.uuid4())}
        if user:
            headers["Authorization"] = f"Token {self.token(user)}"
        if fault:
            headers["Shop-Fault"] = fault
        return request(self.port, Message(path, headers, json.dumps(payload).encode()), **options)

    def token(self, user):
        if user not in self.tokens:
            self.tokens[user] = self.send(None, "/api/sign-in/", username=user, password=user)[1]["token"]
        return self.tokens[user]

    def order(self, quantity=3):
        """Three tea pots."""
        status, order = self.send("alice", "/api/orders/", product=self.product["id"], quantity=quantity)
        assert status == 201
        return order

    def pay(self, order, cents):
        return self.send("alice", "/api/payments/", order=order["id"], amount_cents=cents)

    def report(self, order, status, event_id=None, user="warehouse"):
        event_id = event_id or str(uuid.uuid4())
        payload = {"event_id": event_id, "order": order["reference"], "status": status}
        return self.send(user, "/api/order-events/", **payload)

    def status(self, order):
        return self.send("alice", f"/api/orders/{order['id']}/", "GET")[1]["status"]

    @property
    def product(self):
        products = self.send("alice", "/api/products/", "GET")[1]["results"]
        return next(product for product in products if product["name"] == "Tea pot")

    @property
    def stock(self):
        return self.product["stock"]

    @property
    def balance(self):
        return self.send("alice", "/api/account/", "GET")[1]["balance_cents"]


@contextmanager
def opened(folder, shop_class=Shop, **settings):
    server = Server(folder / "server", folder / "shop.sqlite3", **settings)
    try:
        environment = server.environment()
        subprocess.run([sys.executable, "-c", FILL], cwd=ROOT, env=environment, check=True, timeout=60)
        server.start()
        yield shop_class(server)
    finally:
        server.close()


@contextmanager
def database(folder):
    """The settings of a shop that name its database: a new one, of the kind that is tested on."""
    if VENDOR == "sqlite":
        yield {"SHOP_DATABASE": str(folder / "shop.sqlite3")}
        return
    at, name = services.sign_in(VENDOR), f"shop_{uuid.uuid4().hex}"
    execute = executing(VENDOR, at)
    execute(f"CREATE DATABASE {name}")
    try:
        where = f"{at['USER']}:{at['PASSWORD']}@{at['HOST']}:{at['PORT']}"
        yield {"SHOP_DATABASE_URL": f"{VENDOR}://{where}/{name}"}
    finally:
        execute(f"DROP DATABASE {name}{' WITH (FORCE)' if VENDOR == 'postgresql' else ''}")


def executing(vendor, at):
    """A function that runs a statement on a server, outside of any transaction."""
    sign_in = {"host": at["HOST"], "port": int(at["PORT"]), "user": at["USER"], "password": at["PASSWORD"]}
    if vendor == "postgresql":
        import psycopg2

        connection = psycopg2.connect(**sign_in, dbname="postgres")
        connection.autocommit = True
    else:
        import MySQLdb

        connection = MySQLdb.connect(**sign_in)
    return connection.cursor().execute
