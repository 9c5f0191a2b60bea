from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE
from idempotency.models.records import IdempotencyRecord


class OperationRun(models.Model):
    """What is needed to go on with an operation under a lease that was broken off. A record under a lease
    that has none may not be run again.

    It is written by whoever has the record's fence, and deleted when the record is completed.
    """

    # Whoever deletes the record deletes this after it. Django would read all records to look for theirs.
    record = models.OneToOneField(
        IdempotencyRecord, models.DO_NOTHING, primary_key=True, db_constraint=False, related_name="run"
    )
    name = models.CharField(
        _("registered as"),
        max_length=255,
        blank=True,
        help_text=_("Empty: only its caller's retry can run it again."),
    )
    steps_digest = DigestField(max_length=DIGEST_SIZE)
    is_answer = models.BooleanField(default=False, help_text=_("Whether its result is what is answered."))
    retention = models.DurationField(help_text=_("Of the record, once it is done."))
    principal_kind = models.CharField(max_length=255, blank=True)
    principal_id = models.TextField(blank=True)
    arguments = models.TextField(blank=True, help_text=_("JSON object; empty before it has begun."))
    journal = models.TextField(default="[]", help_text=_("JSON array of the points it has reached."))
    attempts = models.PositiveIntegerField(default=1)
    #: Not before is it gone on with without its caller.
    resume_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True)

    class Meta:
        db_table = "idempotency_operation_run"
        verbose_name = _("operation run")
        verbose_name_plural = _("operation runs")
        default_permissions = ()

    def __str__(self) -> str:
        return self.name or str(self.record_id)
