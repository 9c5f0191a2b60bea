"""Where a mechanism keeps what it knows: one alias of a setting shaped like CACHES."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection
from datetime import timedelta
from typing import Any, ClassVar, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from idempotency import conf

MILLISECOND = timedelta(milliseconds=1)
LONGEST = timedelta(days=36_500)

M = TypeVar("M", bound="BaseMedium")


class BaseMedium(ABC):
    """One alias with its options, checked. Raises ImproperlyConfigured."""

    SETTING: ClassVar[str]
    #: What an option is where the alias does not say; BACKEND and LOCATION are everyone's.
    DEFAULTS: ClassVar[dict[str, Any]]
    #: Alias of the database that the medium is; None where it is none.
    database: str | None = None

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        self.alias = alias
        self.options = options
        self.location: str | None = options["LOCATION"]
        if not isinstance(self.location, str | None):
            raise ImproperlyConfigured(f"{self.name_of('LOCATION')} must be a text, not {self.location!r}.")

    @classmethod
    def at(cls: type[M], alias: str) -> M:
        """The medium of this alias. "default" need not be set."""
        if known := _known.get((cls, alias)):
            return cast(M, known)
        options = conf.medium(cls.SETTING, alias, cls.DEFAULTS)
        path = options["BACKEND"]
        named = f"{cls.SETTING}[{alias!r}]['BACKEND'] is {path!r}"
        try:
            backend = import_string(path)
        except (ImportError, AttributeError, TypeError) as error:
            raise ImproperlyConfigured(f"{named}: {error}") from error
        if not isinstance(backend, type) or not issubclass(backend, cls):
            raise ImproperlyConfigured(f"{named}, which is no {cls.__name__}.")
        medium = backend(alias, options)
        # Which database it is may be a router's to say, each time.
        if medium.database is None:
            _known[cls, alias] = medium
        return medium

    def name_of(self, option: str) -> str:
        return f"{self.SETTING}[{self.alias!r}][{option!r}]"

    def wrong(self, option: str, wanted: str) -> ImproperlyConfigured:
        return ImproperlyConfigured(f"{self.name_of(option)} must be {wanted}, not {self.options[option]!r}.")

    def duration(self, option: str, *, may_be_zero: bool = False) -> timedelta:
        value = self.options[option]
        least = timedelta(0) if may_be_zero else MILLISECOND
        if not isinstance(value, timedelta) or not least <= value <= LONGEST:
            above = "of 0 or more" if may_be_zero else "above 0"
            raise self.wrong(option, f"a timedelta {above}, at most 100 years")
        return value

    def count(self, option: str) -> int:
        value = self.options[option]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(option, "an int above 0")
        return value

    def flag(self, option: str) -> bool:
        value = self.options[option]
        if not isinstance(value, bool):
            raise self.wrong(option, "a bool")
        return value

    def choice(self, option: str, allowed: Collection[str]) -> str:
        value = self.options[option]
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(option, " or ".join(map(repr, allowed)))
        return value


_known: dict[tuple[type[BaseMedium], str], BaseMedium] = {}


@receiver(setting_changed)
def forget_mediums(**kwargs: object) -> None:
    """As tests do, which change settings."""
    _known.clear()
