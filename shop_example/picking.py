"""Pieces are taken off a shelf: as it is, under a lock, and with a fence in what is written under it.

Between reading how many there are and writing how many are left somebody walks to the shelf. No
transaction is open for so long: it would keep everybody from every row that it has read.
"""

from __future__ import annotations

from django.db import transaction

from idempotency.locks import lock
from idempotency.status import lock_rows
from shop_example.faults import work_slowly
from shop_example.models import Pick, Shelf

WAIT = 30


def take(pk: int, quantity: int = 1) -> Pick:
    """Raises OutOfStock; LockBusy; or StaleFence when the lock was lost on the way, and somebody else has
    been at the shelf since."""
    with lock(f"shelf:{pk}", wait=WAIT) as held:
        # Before reading, so that what is read is what every earlier holder has left there.
        held.fence_in("default")
        with transaction.atomic():
            (shelf,) = lock_rows(Shelf.objects.filter(pk=pk))
        left = shelf.pieces_without(quantity)
        work_slowly()
        with transaction.atomic():
            shelf.pieces = left
            shelf.save(update_fields=["pieces"])
            return shelf.picks.create(quantity=quantity)


def take_under_a_lock(pk: int, quantity: int = 1) -> Pick:
    """By one after the other; but whoever is halted for too long still writes, over what others wrote."""
    with lock(f"shelf:{pk}", wait=WAIT):
        return take_as_it_is(pk, quantity)


def take_as_it_is(pk: int, quantity: int = 1) -> Pick:
    shelf = Shelf.objects.get(pk=pk)
    left = shelf.pieces_without(quantity)
    work_slowly()
    with transaction.atomic():
        # Not save(), which would ask for the lock.
        Shelf.objects.filter(pk=pk).update(pieces=left)
        return shelf.picks.create(quantity=quantity)
