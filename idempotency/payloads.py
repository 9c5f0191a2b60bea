"""The digest of what was asked: of an HTTP request, or of a function's arguments.

Raw bytes as they were read, so that nothing has to understand them; forms and uploads by their
fields and files, because every retry of a multipart body draws a new boundary.
"""

from __future__ import annotations

import datetime
import decimal
import inspect
import json
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl

from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.files.uploadedfile import UploadedFile
from django.core.handlers.wsgi import LimitedStream
from django.db.models import Model
from django.http import HttpRequest

from idempotency.exceptions import NotFingerprintable

FORM_MEDIA_TYPES = {"multipart/form-data", "application/x-www-form-urlencoded"}
CHUNK = 64 * 1024


def request_material(request: Any) -> bytes:
    """Digest over method, path, sorted query, media type and payload of a Django or DRF request."""
    django_request: HttpRequest = getattr(request, "_request", request)
    media_type = (django_request.content_type or "").lower()
    head = [request.method, django_request.path, media_type, charset(django_request)]
    material = sha256()
    for part in (*head, *sorted_query(django_request)):
        add(material, part.encode("utf-8", "surrogateescape"))
    material.update(b"#")
    if media_type in FORM_MEDIA_TYPES and is_form_parsed(request, django_request):
        add_form(material, request, django_request)
    else:
        add_body(material, django_request)
    return material.digest()


def sorted_query(request: HttpRequest) -> Iterator[str]:
    """Names in order; the values of one name as they came, for their order may mean something."""
    query = request.META.get("QUERY_STRING", "")
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    for pair in sorted(pairs, key=lambda pair: pair[0]):
        yield from pair


def charset(request: HttpRequest) -> str:
    """The encoding by which the payload's bytes are read, where it is not the usual one."""
    named = (request.content_params or {}).get("charset", "").lower()
    return "" if named in ("utf-8", "utf8") else named


def add(material: Any, part: bytes) -> None:
    """Length first: no two sequences of parts run into the same bytes."""
    material.update(b"%d:" % len(part))
    material.update(part)


def is_form_parsed(request: Any, django_request: HttpRequest) -> bool:
    """DRF parses forms of every method, Django itself those of POST only."""
    return request is not django_request or request.method == "POST"


# Hidden fields with which a page is not another one when it is loaded again.
FRESH_ON_EACH_PAGE = ("csrfmiddlewaretoken", "idempotency_token")


def add_form(material: Any, request: Any, django_request: HttpRequest) -> None:
    """Fields and files, parsed the way the view will see them (and with its errors, if any)."""
    if request is not django_request:
        _ = request.data  # parses, and leaves POST and FILES on the Django request
        refuse_truncated(django_request)
    else:
        _ = django_request.POST
        refuse_truncated(django_request)
    for name, values in sorted(django_request.POST.lists()):
        if name in FRESH_ON_EACH_PAGE:
            continue
        for value in values:
            add(material, b"field")
            add(material, name.encode("utf-8", "surrogatepass"))
            add(material, str(value).encode("utf-8", "surrogatepass"))
    for name, files in sorted(django_request.FILES.lists()):
        for file in files:
            add(material, b"file")
            for text in (name, file.name or "", file.content_type or ""):
                add(material, text.encode("utf-8", "surrogatepass"))
            add(material, file_digest(file))


def file_digest(file: UploadedFile[bytes]) -> bytes:
    content = sha256()
    for chunk in file.chunks():
        content.update(chunk)
    file.seek(0)
    return content.digest()


def add_body(material: Any, request: HttpRequest) -> None:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    # Internal to Django, and what DRF asks too: whether the stream is still there to be read.
    if request._read_started or limit is None or content_length(request) <= limit:  # type: ignore[attr-defined]
        body = request.body
        refuse_truncated(request)
        add(material, body)
        return
    # request.body would refuse it; a view that reads the stream must still be able to.
    spooled = cast(BinaryIO, SpooledTemporaryFile(max_size=limit))  # noqa: SIM115
    weakref.finalize(request, spooled.close)
    for chunk in iter(lambda: request.read(CHUNK), b""):
        spooled.write(chunk)
        material.update(chunk)
    refuse_truncated(request)
    spooled.seek(0)
    request._stream = spooled
    request._read_started = False  # type: ignore[attr-defined]


def refuse_truncated(request: HttpRequest) -> None:
    """A client that is gone in the middle of its payload must not run, nor record, half of it.

    WSGI servers end the stream there without an error. ASGI hands over whole payloads only.
    """
    body, stream = getattr(request, "_body", None), getattr(request, "_stream", None)
    if body is not None:
        truncated = len(body) < content_length(request)
    else:
        truncated = isinstance(stream, LimitedStream) and stream._pos < stream.limit  # type: ignore[attr-defined]
    if truncated:
        raise BadRequest("The payload ended before its Content-Length.")


def content_length(request: HttpRequest) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0


def arguments_material(function: Callable[..., Any], arguments: inspect.BoundArguments) -> bytes:
    """Digest over a call's arguments, however they were passed.

    Raises NotFingerprintable, naming the argument, for a value with no stable text.
    """
    material = sha256()
    for name, value in arguments.arguments.items():
        try:
            text = json.dumps(stable(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise NotFingerprintable(
                f"{function.__qualname__}(): argument {name!r} of type {type(value).__name__} cannot be "
                f"fingerprinted ({error}). Pass its id or its plain values instead."
            ) from error
        add(material, name.encode())
        add(material, text.encode())
    return material.digest()


def stable(value: object) -> Any:
    """A JSON-able picture of a value in which no two types look alike."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        # A combination of flags may have no name.
        return [type(value).__module__, type(value).__qualname__, value.name, stable(value.value)]
    if type(value) in (int, float, str):
        return value
    if type(value) in (list, tuple):
        return ["list", *map(stable, cast(Iterable[object], value))]
    if type(value) is dict:
        return ["dict", *sorted_pairs(value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted(map(stable, value), key=json.dumps)]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, Model):
        if value.pk is None:
            raise TypeError("it has not been saved")
        return [value._meta.label_lower, str(value.pk)]
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return [type(value).__name__, str(value)]
    if isinstance(value, datetime.date | datetime.time):
        return [type(value).__name__, value.isoformat()]
    if isinstance(value, datetime.timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    raise TypeError(f"no stable text for {type(value).__name__}")


def sorted_pairs(value: dict[Any, Any]) -> Iterator[Any]:
    return iter(sorted(([stable(name), stable(item)] for name, item in value.items()), key=json.dumps))
