"""Columns that one mechanism alone writes, whatever else is saved beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from django.db import models

from idempotency.exceptions import WrittenElsewhere


class OwnedColumnsMixin(models.Model):
    """``save()`` leaves these columns of an existing row alone. A copy that was read a while ago, and is
    saved for the sake of another field, would otherwise set them back to what they were then.

    Saving one that was assigned raises WrittenElsewhere. ``QuerySet.update()`` goes around all of it.
    """

    class Meta:
        abstract = True

    @classmethod
    def owned_columns(cls) -> dict[str, str]:
        """Names of fields, and what writes them."""
        return {}

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().from_db(*args, **kwargs)
        instance.note_owned()
        return instance

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet[Any] | None = None,
    ) -> None:
        super().refresh_from_db(using, fields, from_queryset)
        self.note_owned(fields)

    def note_owned(self, fields: Iterable[str] | None = None) -> None:
        """Take what the instance has in these columns for what the row has."""
        names = self.owned_columns() if fields is None else {*fields} & self.owned_columns().keys()
        known = self.__dict__.setdefault("_owned_columns", {})
        known |= {name: self.__dict__[name] for name in names if name in self.__dict__}

    def save_base(
        self,
        raw: bool = False,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        is_update = not raw and not force_insert and not self._state.adding and using == self._state.db
        if is_update and self.pk is not None:
            self._refuse_assigned(update_fields)
            names = {field.name for field in self._meta.concrete_fields if not field.primary_key}
            update_fields = frozenset(names if update_fields is None else update_fields)
            update_fields -= self.owned_columns().keys()
            if not update_fields:
                return
        super().save_base(raw, force_insert, force_update, using, update_fields)
        if not is_update:
            self.note_owned()

    def _refuse_assigned(self, update_fields: Iterable[str] | None) -> None:
        known = self.__dict__.get("_owned_columns", {})
        for name, writer in self.owned_columns().items():
            if update_fields is not None and name not in update_fields:
                continue
            if name in self.__dict__ and self.__dict__[name] != known.get(name):
                raise WrittenElsewhere(
                    f"{type(self).__name__}.{name} was set to {self.__dict__[name]!r}, which save() would "
                    f"not keep: use {writer}. QuerySet.update() goes around it."
                )
