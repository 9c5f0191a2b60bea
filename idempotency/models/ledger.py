from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE, MAX_KEY_LENGTH
from idempotency.models.subjects import AppendOnlyModel


class LedgerEntry(AppendOnlyModel):
    """One increment of an object's field, written in the transaction that made it.

    The unique constraint lets each operation increment a field once. Amounts are texts, exact for
    every type of field on every database.
    """

    field = models.CharField(_("field"), max_length=100)
    operation_digest = DigestField(max_length=DIGEST_SIZE, help_text=_("Digest of field and operation."))
    operation_id = models.CharField(_("operation"), max_length=MAX_KEY_LENGTH)
    amount = models.CharField(_("amount"), max_length=100)
    value = models.CharField(_("value after it"), max_length=100)

    class Meta:
        db_table = "idempotency_ledger_entry"
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger entries")
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=("object_digest", "content_type", "operation_digest"),
                name="idempotency_operation_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.field} {self.amount}"
