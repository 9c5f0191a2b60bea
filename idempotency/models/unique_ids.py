from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE


class UniqueIdQuerySet(models.QuerySet["UniqueId"]):
    def live(self) -> UniqueIdQuerySet:
        """Ids that are remembered, by the database's clock."""
        return self.filter(kept_until__gt=DatabaseNow())

    def expired(self) -> UniqueIdQuerySet:
        """Ids whose window is over: what a purge may delete."""
        return self.filter(kept_until__lte=DatabaseNow())


class UniqueId(models.Model):
    """An id that was handled; the unique constraint lets it be handled once. Only its digest is kept.

    While ``claimed_until`` is set, somebody is handling it: whoever left the ``nonce``.
    """

    digest = DigestField(max_length=DIGEST_SIZE)
    nonce = DigestField(max_length=DIGEST_SIZE, null=True)
    claimed_until = models.DateTimeField(null=True)
    kept_until = models.DateTimeField()
    slot = models.PositiveSmallIntegerField(null=True)

    objects = UniqueIdQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_unique_id"
        verbose_name = _("unique id")
        verbose_name_plural = _("unique ids")
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=("digest",), name="idempotency_unique_id_once")]
        indexes = [models.Index(fields=("kept_until",), name="idempotency_unique_id_expiry")]

    def __str__(self) -> str:
        return bytes(self.digest).hex()[:12]
