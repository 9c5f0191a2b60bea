"""Where tokens are kept, and what views and the page that issues them say about theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from django.core import mail
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.urls import get_resolver

from idempotency import conf
from idempotency.checks.mediums import Mechanism, check_mediums, named
from idempotency.checks.urlconf import GuardedView, callbacks, is_throttled
from idempotency.tokens import BaseTokenStore, tokens
from idempotency.tokens.locmem import LocMemTokenStore
from idempotency.tokens.redis import RedisTokenStore
from idempotency.tokens.texts import valid_purpose
from idempotency.views import TokenView

SETTING = BaseTokenStore.SETTING
TOKENS = Mechanism(
    BaseTokenStore.SETTING,
    BaseTokenStore.at,
    RedisTokenStore,
    wrong_setting="E010",
    wrong_medium="E011",
    evicted="the mark of a used token may be forgotten, and its late duplicate is then invited to run again",
)


def check_stores() -> Iterator[CheckMessage]:
    yield from check_mediums(TOKENS)
    if hasattr(mail, "outbox"):
        return
    for store in TOKENS.mediums():
        if isinstance(store, LocMemTokenStore):
            yield Error(
                f"{named(store)} keeps tokens in the memory of one process: the others neither know nor "
                "spend them.",
                hint="Use Redis or the database; LocMemTokenStore is for tests.",
                id="idempotency.E011",
            )


def check_token_views(views: Iterable[GuardedView]) -> Iterator[CheckMessage]:
    taking = [view for view in views if view.has_token]
    for view in taking:
        yield from check_token_view(view)
    if len(general := [view for view in taking if view.option("idempotency_token_purpose") == ""]) > 1:
        yield Warning(
            f"{len(general)} views take tokens without a purpose, so that one's are good for the others: "
            + ", ".join(sorted(map(str, general))),
            hint="Give each an idempotency_token_purpose, and let clients name it when they fetch tokens.",
            id="idempotency.W008",
        )


def check_token_view(view: GuardedView) -> Iterator[CheckMessage]:
    on_failure = view.option("idempotency_token_on_failure")
    if on_failure not in ("consume", "restore"):
        yield error_of(view, f"idempotency_token_on_failure is {on_failure!r}: use 'consume' or 'restore'.")
    try:
        valid_purpose(view.option("idempotency_token_purpose"))
    except ValueError as error:
        yield error_of(view, f"idempotency_token_purpose is wrong. {error}")
    alias = view.option("idempotency_token_alias")
    if alias not in conf.aliases(SETTING):
        yield error_of(view, f"idempotency_token_alias is {alias!r}, which {SETTING} does not have.")
        return
    yield from check_separate_database(view, alias)
    if view.has_key:
        yield from check_retention(view, alias)


def check_retention(view: GuardedView, alias: str) -> Iterator[CheckMessage]:
    with suppress(ImproperlyConfigured, TypeError):
        retention = view.option("idempotency_retention") or conf.retention()
        if retention < (lifetime := tokens(alias).lifetime):
            yield Warning(
                f"Its records are kept for {retention} and its tokens live for {lifetime}: after a crash "
                "between the two, the same key and token are not let in again.",
                hint="Keep records for at least as long as tokens live.",
                obj=view,
                id="idempotency.W013",
            )


def error_of(view: GuardedView, message: str) -> CheckMessage:
    return Error(message, obj=view, id="idempotency.E012")


def check_separate_database(view: GuardedView, alias: str) -> Iterator[CheckMessage]:
    try:
        database = tokens(alias).database
    except ImproperlyConfigured:
        return
    if database is None or database == view.using or database not in connections:
        return
    if connections[database].settings_dict["ATOMIC_REQUESTS"] and database not in view.non_atomic_requests:
        yield Error(
            f"Its tokens are in {database!r}, where ATOMIC_REQUESTS holds their consumption back until the "
            "view has ended: after a crash they are good again, and the work is done.",
            hint=f"Put @transaction.non_atomic_requests(using={database!r}) on the view, or keep the tokens "
            "in the database of the work.",
            obj=view,
            id="idempotency.E013",
        )


def check_issuing() -> Iterator[CheckMessage]:
    for callback in callbacks(get_resolver()):
        view_class: Any = getattr(callback, "cls", None)
        if is_token_view(view_class) and not is_throttled(view_class, initkwargs(callback)):
            yield Warning(
                "No throttle bounds how many tokens are issued to callers who come without a session each "
                "time, or under many names.",
                hint="Set DEFAULT_THROTTLE_CLASSES and _RATES of REST framework, or throttle_classes on a "
                "subclass of TokenView.",
                obj=view_class,
                id="idempotency.W011",
            )


def is_token_view(view_class: Any) -> bool:
    return isinstance(view_class, type) and issubclass(view_class, TokenView)


def initkwargs(callback: Callable[..., Any]) -> dict[str, Any]:
    kwargs: dict[str, Any] = getattr(callback, "initkwargs", {})
    return kwargs
