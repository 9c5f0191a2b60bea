"""A shop under a server and on a database of its own, as its callers see it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from shop_example import samples
from shop_example.demo.browser import Browser
from shop_example.demo.client import Message, request
from shop_example.demo.machines import Machine
from shop_example.demo.messaging import Messaging
from shop_example.demo.server import DemoFailure, Server


class Shop:
    """``database``: its alias here. ``api_tokens``: by the caller's name."""

    def __init__(self, server: Server, database: str, api_tokens: dict[str, str], *, guarded: bool) -> None:
        self.server = server
        self.database = database
        self.api_tokens = api_tokens
        self.guarded = guarded
        self.browser = Browser(server.port)
        self.machines: list[Machine] = []
        consume = ("consume", "sms.order-paid") if guarded else ("consume_as_it_is",)
        self.messaging = Messaging(server, database, *consume)

    def open(self) -> None:
        self.server.start()
        self.browser.sign_in("/sign-in/", samples.CUSTOMER, password=samples.CUSTOMER)

    def close(self) -> None:
        self.server.close()
        self.messaging.close()
        for machine in self.machines:
            machine.close()

    def machine(self, operation: Callable[[], str]) -> Machine:
        """One that works on this shop's database, beside its server."""
        self.machines.append(Machine(self.server.database, self.server.marker, operation))
        return self.machines[-1]

    def one_time_token(self, purpose: str, user: str) -> str:
        return str(self.create("/idempotency/tokens/", {"purpose": purpose}, user)["token"])

    def new_order(self, product: int) -> str:
        """Its reference."""
        payload = {"product": product, "quantity": 1}
        key = str(uuid.uuid4())
        created = self.create("/api/orders/", payload, samples.CUSTOMER, Idempotency_Key=key)
        return str(created["reference"])

    def create(self, path: str, payload: dict[str, Any], user: str, **headers: str) -> dict[str, Any]:
        """What is needed before a play, made undisturbed."""
        answer = request(self.server.port, self.message(path, payload, user, **headers))
        if answer.status != HTTPStatus.CREATED:
            raise DemoFailure(f"{path} was answered {answer.status}: {answer.body.decode()}")
        created: dict[str, Any] = json.loads(answer.body)
        return created

    def message(self, path: str, payload: dict[str, Any], user: str, **headers: str) -> Message:
        """For the API; headers are named with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Authorization": f"Token {self.api_tokens[user]}", "Content-Type": "application/json"}
        return Message(path, named, json.dumps(payload).encode())
