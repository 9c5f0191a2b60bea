"""Consumers of each kind: an Order is what is written, an SMS at a gateway what is sent."""

from __future__ import annotations

import os
import signal
import socket
import time

import httpx

from idempotency.consumers import idempotent_consumer
from idempotency.models import FailedMessage
from idempotency.steps import downstream_key
from tests.project.models import Order, ParkingParcel

CALL_SECONDS = 5


class Refused(Exception):
    """The message asks for a failure."""


def event_id(message):
    return message.headers["event_id"]


def looked_at(message):
    """Its business id; that somebody had it in hand is in the diary, if one is kept."""
    note("seen", event_id(message))
    return event_id(message)


def note(*words):
    if diary := os.environ.get("DIARY"):
        with open(diary, "a") as file:
            file.write(" ".join(words) + "\n")


def pass_gate(port):
    """Stand still until the test opens it; one that is away stands open."""
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv(1)
    except OSError:
        pass


def work(message):
    """As slowly as the message asks for, and with the failure it asks for."""
    note("run", event_id(message))
    payload = message.payload
    if "gate" in payload:
        pass_gate(payload["gate"])
    if payload.get("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(payload.get("seconds", 0))
    attempts = FailedMessage.objects.with_key(event_id(message)).values_list("attempts", flat=True).first()
    if payload.get("fails", 0) > (attempts or 0):
        raise Refused(event_id(message))
    return payload


def gateway():
    transport = httpx.HTTPTransport(verify=False)
    return httpx.Client(base_url=os.environ["SMS_GATEWAY_URL"], timeout=CALL_SECONDS, transport=transport)


def told(client, reference):
    return client.get("/messages", params={"reference": reference}).raise_for_status().json()["messages"]


def send(reference, key=None):
    with gateway() as client:
        message = {"to": "+1 555 0100", "text": "paid", "reference": reference}
        headers = {"Idempotency-Key": key} if key else {}
        client.post("/messages", json=message, headers=headers).raise_for_status()


@idempotent_consumer("orders.place", key=looked_at, delivery="transactional")
def place(message):
    Order.objects.create(reference=event_id(message))
    work(message)


@idempotent_consumer("sms.once", key=looked_at, delivery="at_most_once")
def send_once(message):
    work(message)
    send(event_id(message))


def ask(message):
    with gateway() as client:
        return bool(told(client, event_id(message)))


@idempotent_consumer("sms.asked", key=looked_at, delivery="at_most_once", reconcile=ask)
def send_and_ask(message):
    work(message)
    send(event_id(message))


@idempotent_consumer("sms.again", key=looked_at, delivery="at_least_once")
def send_again(message):
    work(message)
    send(event_id(message), key=downstream_key())


@idempotent_consumer("parcels.move", key=looked_at, delivery="transactional")
def move(message):
    parcel = ParkingParcel.objects.get(reference=message.payload["parcel"])
    parcel.transition_to(message.payload["status"], event_id=event_id(message))
