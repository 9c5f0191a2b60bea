"""What an operation answered, in the form in which it is kept and given back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import models
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext_lazy as _

from idempotency import conf
from idempotency.exceptions import NotStorable

REPLAYED_HEADERS = (
    "Content-Type",
    "Content-Encoding",
    "Content-Language",
    "Content-Disposition",
    "Location",
    "Link",
    "ETag",
    "Last-Modified",
    "Cache-Control",
    "Vary",
)
# They describe a body, and would lie about none.
BODY_HEADERS = {"content-type", "content-encoding", "content-language", "content-disposition"}
BODY_HEADERS |= {"etag", "last-modified"}
NEVER_STORED = {"set-cookie", "authorization", "proxy-authorization", "www-authenticate"}

# Answers about the caller or the moment rather than about the operation.
PASSING_STATUSES = {401, 403, 408, 425, 429}


class BodyState(models.IntegerChoices):
    STORED = 1, _("stored")
    OMITTED = 2, _("omitted")
    DROPPED = 3, _("dropped")


@dataclass(frozen=True)
class StoredResponse:
    """``status`` is None for a function's result, whose ``body`` is JSON."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = b"null"
    body_state: int = BodyState.STORED

    @classmethod
    def from_columns(
        cls, status: int | None, headers: str, body: bytes | memoryview | None, body_state: int
    ) -> StoredResponse:
        # PostgreSQL's drivers hand out memoryviews.
        content = None if body is None else bytes(body)
        return cls(status, json.loads(headers) if headers else {}, content, body_state)

    @property
    def headers_column(self) -> str:
        return json.dumps(self.headers, separators=(",", ":")) if self.headers else ""

    @classmethod
    def from_result(cls, result: object) -> StoredResponse:
        """A function's return value. Raises NotStorable unless JSON gives back an equal one, since
        a retry must not get another type than the first caller did."""
        try:
            text = json.dumps(result, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotStorable(f"{type(result).__name__} cannot be stored as JSON: {error}") from error
        if not same_json(json.loads(text), result):
            raise NotStorable(
                f"This {type(result).__name__} would come back from JSON as another value: return only "
                "None, bool, int, float, str, lists of these and dicts with str keys."
            )
        return cls(body=text.encode())

    @property
    def result(self) -> Any:
        return json.loads(self.body or b"null")

    @classmethod
    def from_http(cls, response: HttpResponseBase, *, store_body: bool = True) -> StoredResponse:
        """A rendered response. A stream, a body over the limit or one kept out is omitted."""
        headers = {}
        for name in (*REPLAYED_HEADERS, *conf.extra_replay_headers()):
            if name in response.headers and name.lower() not in NEVER_STORED:
                headers[name] = response.headers[name]
        body = response.content if isinstance(response, HttpResponse) else None
        if not store_body or body is None or len(body) > conf.max_stored_body():
            return cls(response.status_code, without_body_headers(headers), None, BodyState.OMITTED)
        return cls(response.status_code, headers, body)

    def to_http(self, response_class: type[HttpResponse] = HttpResponse) -> HttpResponse:
        """The replay: original status, body bytes and kept headers, marked as a replay."""
        response = response_class(self.body or b"", status=self.status)
        del response.headers["Content-Type"]
        for name, value in self.headers.items():
            response.headers[name] = value
        response.headers["Idempotency-Replayed"] = "true"
        if self.body_state == BodyState.OMITTED:
            response.headers["Idempotency-Replay"] = "omitted"
        return response


def same_json(left: Any, right: Any) -> bool:
    """Equality that tells True from 1 and a tuple from a list."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_json(left[name], right[name]) for name in left)
    return bool(left == right)


def without_body_headers(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in BODY_HEADERS}


def is_storable_status(status: int) -> bool:
    """Whether a view that answers with this status meant it as the operation's outcome."""
    return 200 <= status < 500 and status not in PASSING_STATUSES


def render(response: HttpResponseBase) -> None:
    """Render a lazy response now, while the transaction is open."""
    lazily: Callable[[], Any] | None = getattr(response, "render", None)
    if callable(lazily):
        lazily()
