"""Records in the admin: to look at, and to release with a reason; the logs of statuses and amounts, and
mixins for the admin of models that have them."""

from idempotency.admin.logs import LedgerEntryAdmin, ParkedEventAdmin, StatusTransitionAdmin
from idempotency.admin.messages import OutboxMessageAdmin
from idempotency.admin.owned import OwnedColumnsAdminMixin, StatusAdminMixin
from idempotency.admin.records import IdempotencyRecordAdmin

__all__ = [
    "IdempotencyRecordAdmin",
    "LedgerEntryAdmin",
    "OutboxMessageAdmin",
    "OwnedColumnsAdminMixin",
    "ParkedEventAdmin",
    "StatusAdminMixin",
    "StatusTransitionAdmin",
]
