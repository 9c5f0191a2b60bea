"""What each shard knows of the map that it is part of."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE


class Shard(models.Model):
    """One row in each shard: who it is, and which maps may be served from it. Written by
    ``manage.py shards``."""

    name = models.CharField(max_length=63, help_text=_("The alias by which the map names it."))
    version = models.PositiveIntegerField()
    fingerprint = DigestField(max_length=DIGEST_SIZE)
    #: Of the map that is on its way out, during a move: they differ in frozen slots alone.
    previous_version = models.PositiveIntegerField(null=True)
    previous_fingerprint = DigestField(max_length=DIGEST_SIZE, null=True)

    class Meta:
        db_table = "idempotency_shard"
        verbose_name = _("shard")
        verbose_name_plural = _("shards")
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class ShardSlot(models.Model):
    """Where a slot is, in every shard, so that each can refuse what is not its own."""

    slot = models.PositiveSmallIntegerField(primary_key=True)
    owner = models.CharField(max_length=63)
    frozen_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "idempotency_shard_slot"
        verbose_name = _("slot")
        verbose_name_plural = _("slots")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.slot} on {self.owner}"
