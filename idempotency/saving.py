"""Where ``save()`` becomes an UPDATE, for mixins that have a say in it."""

from __future__ import annotations

from typing import Any

from django.db import models


class WatchedSaveMixin(models.Model):
    """Knows whether what is being saved is a fixture, which brings its columns as they are."""

    class Meta:
        abstract = True

    def _save_table(self, raw: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Fixtures go past ``save()``, and past any other method that could be overridden instead."""
        before = self.__dict__.get("_saves_raw", False)
        self.__dict__["_saves_raw"] = raw
        try:
            return super()._save_table(raw, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.__dict__["_saves_raw"] = before

    @property
    def saves_raw(self) -> bool:
        return bool(self.__dict__.get("_saves_raw"))
