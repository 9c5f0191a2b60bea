"""A stored response, and other JSON, as text for a page, always escaped."""

from __future__ import annotations

import json
from datetime import datetime

from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.http import parse_header_parameters
from django.utils.safestring import SafeString
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext as _

from idempotency.responses import BodyState, StoredResponse

LONGEST_SHOWN = 64 * 1024
TEXT_TYPES = (
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-www-form-urlencoded",
)
TEXT_SUFFIXES = ("+json", "+xml")


def readable_headers(response: StoredResponse) -> SafeString:
    return preformatted("\n".join(f"{name}: {value}" for name, value in response.headers.items()))


def readable_body(response: StoredResponse) -> SafeString:
    if response.body_state != BodyState.STORED:
        return format_html("{}", _("Not stored: %s.") % BodyState(response.body_state).label)
    body = response.body or b""
    content_type, parameters = media_type(response)
    if "Content-Encoding" in response.headers or not is_text(content_type):
        size = _("%(size)d bytes of %(type)s") % {"size": len(body), "type": content_type or _("no type")}
        return format_html("{}", size)
    return preformatted(shortened(decoded(body, content_type, parameters.get("charset", "utf-8"))))


def media_type(response: StoredResponse) -> tuple[str, dict[str, str]]:
    if response.status is None:  # a function's result
        return "application/json", {}
    content_type, parameters = parse_header_parameters(response.headers.get("Content-Type", ""))
    return content_type.lower(), parameters


def is_text(content_type: str) -> bool:
    return (
        content_type.startswith("text/") or content_type in TEXT_TYPES or content_type.endswith(TEXT_SUFFIXES)
    )


def decoded(body: bytes, content_type: str, charset: str) -> str:
    try:
        text = body.decode(charset, "replace")
    except (LookupError, ValueError):
        text = body.decode("utf-8", "replace")
    return indented(text) if content_type.endswith("json") else text


def indented(text: str) -> str:
    """JSON on several lines; as it is, where that would change what it says."""
    try:
        parsed = json.loads(text, parse_float=same_float, object_pairs_hook=same_object)
        return as_json(parsed)
    except (ValueError, RecursionError):
        return text


def as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def same_float(literal: str) -> float:
    if repr(float(literal)) != literal:
        raise ValueError(f"{literal} would be shown as {float(literal)!r}")
    return float(literal)


def same_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a name occurs twice")
    return parsed


def shortened(text: str) -> str:
    if len(text) <= LONGEST_SHOWN:
        return text
    more = _("… and %(count)d more characters") % {"count": len(text) - LONGEST_SHOWN}
    return f"{text[:LONGEST_SHOWN]}\n{more}"


def moment(at: datetime) -> str:
    return date_format(localtime(at) if is_aware(at) else at, "DATETIME_FORMAT")


def preformatted(text: str) -> SafeString:
    style = "white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; padding: 0"
    return format_html('<pre style="{}">{}</pre>', style, text)
