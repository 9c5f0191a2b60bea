"""Messages that go out because the transaction that they were stored in was committed, and only then."""

from idempotency.outbox.sending import send

__all__ = ["send"]
