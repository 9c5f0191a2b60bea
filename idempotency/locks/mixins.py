from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, models, router, transaction
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow, insert_once, is_changed_row
from idempotency.exceptions import LockNotHeld, StaleFence
from idempotency.locks.held import HeldLock, held_here
from idempotency.models import LockFence
from idempotency.saving import WatchedSaveMixin


class FencedMixin(WatchedSaveMixin, models.Model):
    """Rows that only the holder of a lock writes, and no holder whose time is over.

    ``save()`` and ``delete()`` of an existing row carry the fence of the lock that ``lock_name()`` names,
    which is to be held around them. They raise LockNotHeld outside of it; and StaleFence, in the
    transaction that they are in, once a later holder has written or has taken a fence.

    Ask for ``held.fence_in(alias)`` before reading what a decision rests on: then no earlier holder's write
    comes after it. Around all of it go the insertion of new rows, fixtures, everything that QuerySets
    write (``update()``, ``bulk_update()``, ``delete()``, cascades), ``transition_to()`` and ``increment()``.

    The lock's name must not depend on what may be changed: two holders could then write one row.
    """

    fence = models.PositiveBigIntegerField(_("fence"), default=0, editable=False)

    class Meta:
        abstract = True

    def lock_name(self) -> str:
        """The name of the lock that guards this row, such as ``f"order:{self.pk}"``."""
        raise ImproperlyConfigured(f"{type(self).__name__} needs a lock_name(): the lock that guards a row.")

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        using = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            model = type(self)._meta.get_field("fence").model
            pk = getattr(self, model._meta.pk.attname)
            self._do_update(model._base_manager.using(using), using, pk, [], None, True)
            return super().delete(using, keep_parents)

    def _do_update(
        self, base_qs: Any, using: Any, pk_val: Any, values: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Django's own hook around the UPDATE of save(), whichever way it came to be one."""
        field = type(self)._meta.get_field("fence")
        if self.saves_raw or base_qs.model is not field.model:
            return super()._do_update(base_qs, using, pk_val, values, *args, **kwargs)
        held = held_here(self.lock_name())
        if held is None:
            if base_qs.filter(pk=pk_val).exists():
                raise LockNotHeld(
                    f"{type(self).__name__} {pk_val} is written by the holder of the lock "
                    f"{self.lock_name()!r}: put `with lock(…):` around it. QuerySet.update() goes around it."
                )
            return super()._do_update(base_qs, using, pk_val, values, *args, **kwargs)
        fence = held.fence_in(using)
        values = [(other, *rest) for other, *rest in values if other is not field] + [(field, None, fence)]
        with stale_when_changed(), transaction.atomic(using=using, savepoint=False):
            rows = base_qs.filter(fence__lte=fence)
            updated = super()._do_update(rows, using, pk_val, values, *args, **kwargs)
            if not updated and base_qs.filter(pk=pk_val).exists():
                raise StaleFence
            refuse_later(held, fence, using)
        self.fence = fence
        return updated


def refuse_later(held: HeldLock, fence: int, using: str) -> None:
    """Raise StaleFence when somebody has taken a later fence. Otherwise nobody does until the transaction
    ends: they wait for it."""
    row = LockFence.objects.using(using).filter(digest=held.ticket.digest)
    # A locking read: a transaction's snapshot may be older than what others have taken since.
    latest = row.select_for_update().values_list("number", flat=True).first()
    if latest is None:
        # Purged, as it was taken more than a day ago; and perhaps others' with it.
        held.check()
        again = LockFence(digest=held.ticket.digest, number=fence, taken_at=DatabaseNow())
        latest = fence if insert_once(again, using) else None
    if latest != fence:
        raise StaleFence


@contextmanager
def stale_when_changed() -> Iterator[None]:
    """Under REPEATABLE READ, what a later holder has written or taken since cannot be written or locked."""
    try:
        yield
    except DatabaseError as error:
        if is_changed_row(error):
            raise StaleFence from error
        raise
