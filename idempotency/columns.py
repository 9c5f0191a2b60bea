"""Columns that one mechanism alone writes, whatever else is saved beside them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Self

from django.db import models

from idempotency.exceptions import WrittenElsewhere
from idempotency.saving import WatchedSaveMixin


class OwnedColumnsMixin(WatchedSaveMixin, models.Model):
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
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self.note_owned(fields)

    def note_owned(self, fields: Iterable[str] | None = None) -> None:
        """Take what the instance has in these columns for what the row has."""
        names = self.owned_columns().keys() if fields is None else self.owned_columns().keys() & {*fields}
        known = {name: self.__dict__[name] for name in names if name in self.__dict__}
        self.__dict__["_owned_columns"] = {**self.__dict__.get("_owned_columns", {}), **known}

    def save_base(self, raw: bool = False, *args: Any, **kwargs: Any) -> None:
        if not raw and not self._state.adding:
            self._refuse_assigned(kwargs.get("update_fields"))
        super().save_base(raw, *args, **kwargs)

    def _do_update(
        self, base_qs: Any, using: Any, pk_val: Any, values: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Django's own hook around the UPDATE of save(), whichever way it came to be one."""
        if not self.saves_raw:
            owned = self.owned_columns()
            values = [(field, *rest) for field, *rest in values if field.name not in owned]
        return super()._do_update(base_qs, using, pk_val, values, *args, **kwargs)

    def _do_insert(self, *args: Any, **kwargs: Any) -> Any:
        inserted = super()._do_insert(*args, **kwargs)  # type: ignore[misc]
        self.note_owned()
        return inserted

    def _refuse_assigned(self, update_fields: Collection[str] | None) -> None:
        known = self.__dict__.get("_owned_columns", {})
        for name, writer in self.owned_columns().items():
            is_saved, value = update_fields is None or name in update_fields, self.__dict__.get(name)
            if is_saved and name in known and value != known[name]:
                raise WrittenElsewhere(
                    f"{type(self).__name__}.{name} was set to {value!r}, which save() would not keep: use "
                    f"{writer}. QuerySet.update() goes around it."
                )
