"""The record of an operation that was done, and the constraint that lets it be done once."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE, INBOX, MAX_KEY_LENGTH, key_digest, principal_digest
from idempotency.responses import BodyState, StoredResponse


class RecordQuerySet(models.QuerySet["IdempotencyRecord"]):
    def live(self) -> RecordQuerySet:
        """Records that still answer for their operation, by the database's clock."""
        return self.filter(expires_at__gt=DatabaseNow())

    def expired(self) -> RecordQuerySet:
        """Records of what was done, past their retention: what a purge may delete."""
        return self.filter(state__in=IdempotencyRecord.DONE, expires_at__lte=DatabaseNow())

    def unfinished(self) -> RecordQuerySet:
        """Records that nobody works on, of what was not done, as far as anybody knows: abandoned, or
        their outcome unknown. The completer, their callers' retries, or an operator settle them."""
        states = (IdempotencyRecord.State.RUNNING, IdempotencyRecord.State.UNKNOWN)
        return self.filter(state__in=states, expires_at__lte=DatabaseNow())

    def with_key(self, key: str) -> RecordQuerySet:
        """Records under exactly this key, whoever sent it. Served by the unique index."""
        return self.filter(key_digest=key_digest(key))

    def of_principal(self, kind: str, identifier: str) -> RecordQuerySet:
        """One principal's records. No index serves it: it is for erasure, not for requests."""
        return self.filter(principal=principal_digest(kind, identifier))

    def with_droppable_body(self, age: timedelta) -> RecordQuerySet:
        """Completed records older than ``age`` whose body is still stored."""
        return self.filter(
            state=IdempotencyRecord.State.COMPLETED,
            body_state=BodyState.STORED,
            created_at__lte=DatabaseNow() - age,
        )

    def drop_bodies(self) -> int:
        """Keep the fact, free the space: the operation still counts as done."""
        return self.update(body=None, headers="", body_state=BodyState.DROPPED)


class IdempotencyRecord(models.Model):
    """One operation under one key of one scope; the unique constraint is what makes it one.

    While the record is kept, its operation's effects in this database stand once. Rows are written
    by the stores in ``idempotency.records``; nothing else inserts or completes them.
    """

    class State(models.IntegerChoices):
        RUNNING = 1, _("running")
        COMPLETED = 2, _("completed")
        UNKNOWN = 3, _("outcome unknown")
        FINISHED = 4, _("finished, not answered")

    DONE = (State.COMPLETED, State.FINISHED)

    key_digest = DigestField(max_length=DIGEST_SIZE)
    scope = DigestField(max_length=DIGEST_SIZE)
    principal = DigestField(max_length=DIGEST_SIZE)
    # Only for reading; comparisons use the digest, which no collation can blur.
    key = models.CharField(max_length=MAX_KEY_LENGTH, db_column="idempotency_key", blank=True)
    operation = models.CharField(max_length=255)
    fingerprint = DigestField(max_length=17)
    state = models.PositiveSmallIntegerField(choices=State.choices)
    status = models.PositiveSmallIntegerField(null=True, help_text=_("HTTP status; empty for a function."))
    headers = models.TextField(blank=True, help_text=_("JSON object of the headers that are replayed."))
    body = models.BinaryField(null=True)
    body_state = models.PositiveSmallIntegerField(choices=BodyState.choices, default=BodyState.STORED)
    created_at = models.DateTimeField()
    #: Of a record that is running, until when it is nobody else's; of an unknown one, when to ask again.
    expires_at = models.DateTimeField()
    #: 0: not under a lease. Else which owner has it, counted.
    fence = models.IntegerField(default=0, db_default=0)
    #: Of a shard, where its shard key puts it: with what else is to be moved when it is.
    slot = models.PositiveSmallIntegerField(null=True)

    objects = RecordQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_record"
        verbose_name = _("idempotency record")
        verbose_name_plural = _("idempotency records")
        constraints = [
            # The key leads, so that the admin finds an exact key without knowing its scope.
            models.UniqueConstraint(fields=("key_digest", "scope"), name="idempotency_record_once"),
        ]
        indexes = [
            models.Index(fields=("state", "expires_at"), name="idempotency_record_expiry"),
            models.Index(fields=("created_at",), name="idempotency_record_age"),
        ]
        permissions = [
            ("view_stored_response", _("Can read stored responses")),
            ("release_idempotencyrecord", _("Can release an operation so that it may run again")),
            ("decide_idempotencyrecord", _("Can decide what became of an operation")),
        ]

    def __str__(self) -> str:
        return f"{self.operation} {bytes(self.key_digest).hex()[:12]}"

    @property
    def is_message(self) -> bool:
        """Whether it is a consumer's."""
        return bytes(self.principal) == principal_digest(*INBOX)

    @property
    def response(self) -> StoredResponse:
        return StoredResponse.from_columns(self.status, self.headers, self.body, self.body_state)
