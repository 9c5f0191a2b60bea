"""Messages that came in and failed, and messages that are to go out."""

from __future__ import annotations

from typing import Any, Self

from django.db import models
from django.utils.translation import gettext_lazy as _

from idempotency.database import DatabaseNow
from idempotency.fields import DigestField
from idempotency.keys import DIGEST_SIZE, INBOX, MAX_KEY_LENGTH, key_digest, principal_digest
from idempotency.models.records import IdempotencyRecord, RecordQuerySet

MAX_NAME_LENGTH = 255


class InboxManager(models.Manager.from_queryset(RecordQuerySet)):  # type: ignore[misc]
    def get_queryset(self) -> Any:
        return super().get_queryset().filter(principal=principal_digest(*INBOX))


class InboxMessage(IdempotencyRecord):
    """The record of a message under its consumer and business id: handled, being handled, or of an outcome
    that nobody knows."""

    objects = InboxManager()  # type: ignore[misc]  # the records of consumers alone

    class Meta:
        proxy = True
        verbose_name = _("inbox message")
        verbose_name_plural = _("inbox")
        default_permissions = ("view",)


class FailedMessageQuerySet(models.QuerySet[Any]):
    def with_key(self, key: str) -> Self:
        """Messages with exactly this business id, of whichever consumer."""
        return self.filter(key_digest=key_digest(key))

    def forgettable(self) -> Self:
        """Dead letters, and what nobody tries again, past the inbox's retention: what a purge may delete."""
        return self.filter(kept_until__lte=DatabaseNow())


class FailedMessage(models.Model):
    """A message whose handling failed, until it is handled; one that was given up says why."""

    key_digest = DigestField(max_length=DIGEST_SIZE)
    scope = DigestField(max_length=DIGEST_SIZE)
    consumer = models.CharField(_("consumer"), max_length=MAX_NAME_LENGTH)
    # Only for reading, as a record's.
    key = models.CharField(_("business id"), max_length=MAX_KEY_LENGTH, db_column="business_id")
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    last_error = models.TextField(_("last error"), blank=True)
    first_failed_at = models.DateTimeField(_("first failed at"))
    last_failed_at = models.DateTimeField(_("last failed at"))
    #: Of one that was given up and is kept nowhere else, such as a task's: JSON.
    message = models.TextField(_("message"), blank=True)
    #: Null while it is tried again.
    dead_at = models.DateTimeField(_("dead-lettered at"), null=True)
    kept_until = models.DateTimeField(null=True)

    objects = FailedMessageQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_failed_message"
        verbose_name = _("failed message")
        verbose_name_plural = _("failed messages")
        default_permissions = ("view", "delete")
        constraints = [
            models.UniqueConstraint(fields=("key_digest", "scope"), name="idempotency_failed_message_once")
        ]
        indexes = [models.Index(fields=("kept_until",), name="idempotency_failed_expiry")]

    def __str__(self) -> str:
        return f"{self.consumer} {self.key}"


class OutboxQuerySet(models.QuerySet[Any]):
    def waiting(self) -> Self:
        """Messages that are to be published, those that failed too."""
        return self.filter(state__in=(OutboxMessage.State.WAITING, OutboxMessage.State.FAILED))

    def forgettable(self) -> Self:
        """Published messages past their retention: what a purge may delete."""
        return self.filter(kept_until__lte=DatabaseNow())


class OutboxMessage(models.Model):
    """A message that was stored with the business writes, and is published after their commit: at least
    once, and in the order in which it was stored among those of one ordering key."""

    class State(models.IntegerChoices):
        WAITING = 1, _("waiting")
        PUBLISHED = 2, _("published")
        FAILED = 3, _("failed, to be tried again")

    event_id = models.CharField(_("event"), max_length=MAX_KEY_LENGTH)
    broker = models.CharField(_("broker"), max_length=MAX_NAME_LENGTH)
    exchange = models.CharField(_("exchange"), max_length=MAX_NAME_LENGTH, blank=True)
    routing_key = models.CharField(_("routing key"), max_length=MAX_NAME_LENGTH)
    # Null: published in any order.
    ordering_digest = DigestField(max_length=DIGEST_SIZE, null=True)
    ordering_key = models.CharField(_("ordering key"), max_length=MAX_KEY_LENGTH, blank=True)
    headers = models.TextField(_("headers"), default="{}", help_text=_("JSON object."))
    content_type = models.CharField(_("content type"), max_length=MAX_NAME_LENGTH)
    content_encoding = models.CharField(_("content encoding"), max_length=MAX_NAME_LENGTH)
    body = models.BinaryField()
    state = models.PositiveSmallIntegerField(_("state"), choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    last_error = models.TextField(_("last error"), blank=True)
    created_at = models.DateTimeField(_("stored at"))
    #: Of one that failed, when it is tried again.
    try_at = models.DateTimeField(_("tried again at"), null=True)
    published_at = models.DateTimeField(_("published at"), null=True)
    kept_until = models.DateTimeField(null=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_outbox_message"
        verbose_name = _("outbox message")
        verbose_name_plural = _("outbox")
        default_permissions = ("view", "delete")
        indexes = [
            models.Index(fields=("state", "id"), name="idempotency_outbox_order"),
            models.Index(fields=("state", "ordering_digest", "id"), name="idempotency_outbox_key"),
            models.Index(fields=("kept_until",), name="idempotency_outbox_expiry"),
            # For the admin's search.
            models.Index(fields=("event_id",), name="idempotency_outbox_event"),
        ]

    def __str__(self) -> str:
        return f"{self.exchange or '(default)'} {self.routing_key} {self.event_id}"
