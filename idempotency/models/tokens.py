from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE


class TokenQuerySet(models.QuerySet["IdempotencyToken"]):
    def live(self) -> TokenQuerySet:
        """Tokens whose lifetime is not over, used or not, by the database's clock."""
        return self.filter(expires_at__gt=DatabaseNow())

    def expired(self) -> TokenQuerySet:
        """Tokens that need not be remembered any longer: what a purge may delete."""
        return self.filter(kept_until__lte=DatabaseNow())


class IdempotencyToken(models.Model):
    """A one-time token, by digest alone. It is issued while ``nonce`` is null; whoever consumes it
    leaves the nonce of the attempt, and the row stays for the retention, so that duplicates are known.
    """

    digest = DigestField(max_length=DIGEST_SIZE)
    binding = DigestField(max_length=DIGEST_SIZE, help_text=_("Digest of principal and purpose."))
    principal = DigestField(max_length=DIGEST_SIZE)
    nonce = DigestField(max_length=DIGEST_SIZE, null=True)
    expires_at = models.DateTimeField()
    kept_until = models.DateTimeField()
    slot = models.PositiveSmallIntegerField(null=True)

    objects = TokenQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_token"
        verbose_name = _("one-time token")
        verbose_name_plural = _("one-time tokens")
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=("digest",), name="idempotency_token_once")]
        indexes = [
            models.Index(fields=("principal", "expires_at"), name="idempotency_token_holder"),
            models.Index(fields=("kept_until",), name="idempotency_token_expiry"),
        ]

    def __str__(self) -> str:
        return bytes(self.digest).hex()[:12]
