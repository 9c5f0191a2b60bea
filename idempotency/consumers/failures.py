"""How often a message has failed, and how, in the work's database: brokers do not count."""

from __future__ import annotations

import traceback
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F

from idempotency import conf
from idempotency.database import DatabaseNow
from idempotency.keys import ScopedKey
from idempotency.models import FailedMessage
from idempotency.steps.values import storable
from idempotency.transactions import asked

LONGEST_TEXT = 4000
BEGUN = "It was begun, and has not ended: it is at work, or its worker died, or lost its connection."


class Failures:
    """Of one message. Raises StoreUnavailable and OperationInProgress."""

    def __init__(self, key: ScopedKey, using: str) -> None:
        self.key, self.using = key, using

    def begin(self) -> int:
        """Count an attempt that may not live to say so. How many there were, with it."""
        return self._note(BEGUN, F("attempts") + 1)

    def unbegin(self) -> None:
        """It was not begun after all."""
        with asked(self.using):
            if not self._rows().filter(attempts=1, last_error=BEGUN).delete()[0]:
                self._rows().filter(attempts__gt=0).update(attempts=F("attempts") - 1)

    def note(self, error: BaseException, *, counted: bool) -> int:
        """What the attempt ended in; ``counted``: by ``begin()``. How many there were, with it."""
        return self._note(described(error), F("attempts") if counted else F("attempts") + 1)

    def bury(self, reason: str) -> None:
        """It is a dead letter from now on."""
        with asked(self.using):
            self._write(
                {"last_error": reason, "dead_at": DatabaseNow()}
                | {"kept_until": DatabaseNow() + conf.inbox_retention()},
                attempts=1,
            )

    def buried(self) -> str | None:
        """Why it is a dead letter, if it is one."""
        with asked(self.using):
            rows = self._rows().filter(dead_at__isnull=False)
            reason: str | None = rows.values_list("last_error", flat=True).first()
            return reason

    def revive(self) -> None:
        """A dead letter is to be tried as if it had never failed."""
        with asked(self.using):
            self._rows().filter(dead_at__isnull=False).delete()

    def forget(self) -> None:
        """It was handled."""
        with asked(self.using):
            self._rows().delete()

    def _note(self, text: str, attempts: Any) -> int:
        with asked(self.using):
            # Nobody tries again for so long what is still with a broker.
            kept_until = DatabaseNow() + conf.inbox_retention()
            self._write({"last_error": text, "attempts": attempts, "dead_at": None, "kept_until": kept_until})
            return self._rows().values_list("attempts", flat=True).first() or 1

    def _write(self, values: dict[str, Any], attempts: int = 1) -> None:
        values |= {"last_failed_at": DatabaseNow()}
        if self._rows().update(**values):
            return
        try:
            with transaction.atomic(using=self.using):
                FailedMessage.objects.using(self.using).create(
                    **values | {"attempts": attempts, "first_failed_at": DatabaseNow()},
                    key_digest=self.key.key_digest,
                    scope=self.key.scope,
                    consumer=self.key.operation,
                    key=self.key.key,
                )
        except IntegrityError:  # somebody else has just written it
            self._rows().update(**values)

    def _rows(self) -> Any:
        return FailedMessage.objects.using(self.using).filter(
            key_digest=self.key.key_digest, scope=self.key.scope
        )


def described(error: BaseException) -> str:
    """The exception, and where it came from, as no text of it breaks a database."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    try:
        said = str(error)
    except Exception:
        said = "(it has no text: its __str__() fails)"
    return storable(f"{type(error).__name__}: {shortened(said)}{where}")


def shortened(text: str) -> str:
    """A text may hold a whole payload, more than a database takes in one piece."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
