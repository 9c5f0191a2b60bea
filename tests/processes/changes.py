"""Changes of statuses and amounts that meet with accidents; the event's id is the object's name."""

from __future__ import annotations

from idempotency.exceptions import NotApplied, OperationInProgress, StoreUnavailable
from idempotency.models import ParkedEvent
from tests.project.models import Order, Parcel, ParkingParcel, Product

STOCK = 10


def told(change):
    try:
        return {"status": 200, "body": change()}
    except OperationInProgress as error:
        return {"status": 409, "body": error.code}
    except StoreUnavailable as error:
        return {"status": 503, "body": error.code}


def transition(key):
    """Lets the event through that waits for it; each leaves an order."""
    parcel = ParkingParcel.objects.get(reference=key)
    return told(lambda: parcel.transition_to("packed", event_id=key).value)


def transition_at_once(key):
    parcel = Parcel.objects.get(reference=key)
    return told(lambda: parcel.transition_to("packed", event_id=key).value)


def guard(key):
    parcel = Parcel.objects.get(reference=key)

    def change():
        try:
            with parcel.transition("packed", event_id=key):
                Order.objects.create(reference=key)
        except NotApplied as refusal:
            return refusal.outcome.value
        return "applied"

    return told(change)


def park(key):
    parcel = ParkingParcel.objects.get(reference=key)
    return told(lambda: parcel.transition_to("sent", event_id=key).value)


def increment(key):
    product = Product.objects.get(name=key)
    return told(lambda: product.increment("stock", -3, operation_id=key).value)


# Before and after


def prepare_plain(key):
    Parcel.objects.create(reference=key)


def prepare_parking(key):
    ParkingParcel.objects.create(reference=key)


def prepare_waiting(key):
    ParkingParcel.objects.create(reference=key).transition_to("sent", event_id=f"{key} sent")


def prepare_product(key):
    Product.objects.create(name=key, stock=STOCK)


def found_parcel(key):
    """Of whichever kind it is."""
    parcel = next(row for model in (Parcel, ParkingParcel) for row in model.objects.filter(reference=key))
    return {
        "now": parcel.status,
        "log": parcel.status_log().count(),
        "orders": Order.objects.filter(reference=key).count(),
        "parked": ParkedEvent.objects.about(parcel).count(),
    }


def found_product(key):
    product = Product.objects.get(name=key)
    return {"now": product.stock, "log": product.ledger().count()}
