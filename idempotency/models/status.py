from __future__ import annotations

from typing import Self

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE, MAX_KEY_LENGTH
from idempotency.models.subjects import AppendOnlyModel, SubjectModel, SubjectQuerySet

MAX_STATUS_LENGTH = 255


class StatusTransition(AppendOnlyModel):
    """One change of an object's status, written in the transaction that made it: the log of all models.

    The unique constraint lets each event be applied to an object once, whatever came between.
    """

    # Null without an event: such changes may repeat.
    event_digest = DigestField(max_length=DIGEST_SIZE, null=True)
    event_id = models.CharField(_("event"), max_length=MAX_KEY_LENGTH, blank=True)
    from_status = models.CharField(_("from"), max_length=MAX_STATUS_LENGTH)
    to_status = models.CharField(_("to"), max_length=MAX_STATUS_LENGTH)
    sequence = models.BigIntegerField(_("sequence"), null=True)

    class Meta:
        db_table = "idempotency_status_transition"
        verbose_name = _("status transition")
        verbose_name_plural = _("status transitions")
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=("object_digest", "content_type", "event_digest"), name="idempotency_event_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.from_status} → {self.to_status}"


class ParkedEventQuerySet(SubjectQuerySet):
    def overdue(self) -> Self:
        """Events that wait for longer than their model's limit, by the database's clock."""
        return self.filter(report_at__lte=DatabaseNow())


class ParkedEvent(SubjectModel):
    """An event that came too early. It is applied, and its row deleted, in the transaction of the
    change that it waits for; after ``report_at`` it is reported."""

    event_digest = DigestField(max_length=DIGEST_SIZE)
    event_id = models.CharField(_("event"), max_length=MAX_KEY_LENGTH)
    to_status = models.CharField(_("to"), max_length=MAX_STATUS_LENGTH)
    sequence = models.BigIntegerField(_("sequence"), null=True)
    by = models.CharField(_("by"), max_length=255, blank=True)
    parked_at = models.DateTimeField(_("parked at"))
    report_at = models.DateTimeField(_("overdue from"))

    objects = ParkedEventQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_parked_event"
        verbose_name = _("parked event")
        verbose_name_plural = _("parked events")
        default_permissions = ("view", "delete")
        constraints = [
            models.UniqueConstraint(
                fields=("object_digest", "content_type", "event_digest"), name="idempotency_parked_once"
            )
        ]
        indexes = [models.Index(fields=("report_at",), name="idempotency_parked_overdue")]

    def __str__(self) -> str:
        return f"{self.event_id} to {self.to_status}"
