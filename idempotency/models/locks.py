from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE

IDLE = timedelta(days=1)


class LockLeaseQuerySet(models.QuerySet["LockLease"]):
    def expired(self) -> LockLeaseQuerySet:
        """Leases that anybody may take over: what a purge may delete."""
        return self.filter(expires_at__lte=DatabaseNow())


class LockLease(models.Model):
    """A lock that is held, on the medium that is a database. Released, the row is gone."""

    digest = DigestField(max_length=DIGEST_SIZE)
    owner = DigestField(max_length=DIGEST_SIZE, help_text=_("Nonce of the acquisition."))
    expires_at = models.DateTimeField()

    objects = LockLeaseQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_lock_lease"
        verbose_name = _("lock lease")
        verbose_name_plural = _("lock leases")
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=("digest",), name="idempotency_lock_lease_once")]
        indexes = [models.Index(fields=("expires_at",), name="idempotency_lock_lease_expiry")]

    def __str__(self) -> str:
        return bytes(self.digest).hex()[:12]


class LockFenceQuerySet(models.QuerySet["LockFence"]):
    def idle(self) -> LockFenceQuerySet:
        """Fences nobody took for a day: what a purge may delete."""
        return self.filter(taken_at__lte=DatabaseNow() - IDLE)


class LockFence(models.Model):
    """The last fence that was taken of a lock, whatever the lock's medium.

    It is never less than the time in microseconds, so that it also grows when the row was purged meanwhile.
    """

    digest = DigestField(max_length=DIGEST_SIZE)
    number = models.PositiveBigIntegerField()
    taken_at = models.DateTimeField()

    objects = LockFenceQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_lock_fence"
        verbose_name = _("lock fence")
        verbose_name_plural = _("lock fences")
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=("digest",), name="idempotency_lock_fence_once")]
        indexes = [models.Index(fields=("taken_at",), name="idempotency_lock_fence_age")]

    def __str__(self) -> str:
        return bytes(self.digest).hex()[:12]
