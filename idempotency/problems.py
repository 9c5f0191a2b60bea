"""Refusals as RFC 9457 problem documents."""

from __future__ import annotations

import json

from django.http import HttpResponse

from idempotency import conf
from idempotency.exceptions import IdempotencyError

# Code: status and title. Part of the wire contract.
PROBLEMS = {
    "missing-key": (400, "Idempotency key required"),
    "invalid-key": (400, "Idempotency key invalid"),
    "missing-principal": (403, "Principal required"),
    "conflict": (409, "Operation in progress"),
    "outcome-unknown": (409, "Outcome unknown"),
    "result-expired": (409, "Result no longer kept"),
    "transition-rejected": (409, "Status does not allow this change"),
    "fingerprint-mismatch": (422, "Idempotency key used with another payload"),
    "missing-token": (400, "One-time token required"),
    "invalid-token": (400, "One-time token invalid"),
    "expired-token": (410, "One-time token expired"),
    "duplicate": (409, "Duplicate operation"),
    "too-many-tokens": (429, "Too many one-time tokens"),
    "store-unavailable": (503, "Idempotency store unavailable"),
}


class ProblemResponse(HttpResponse):
    """A refusal. What it refuses was not done, so it is not stored as what became of it."""


def problem_response(error: IdempotencyError) -> ProblemResponse:
    """The refusal on the wire, whatever the view's renderers."""
    status, title = PROBLEMS[error.code]
    documentation = conf.documentation_url()
    document = {
        "type": f"{documentation}#{error.code}" if documentation else f"urn:idempotency:{error.code}",
        "title": title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
    }
    response = ProblemResponse(json.dumps(document), status=status, content_type="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if documentation:
        response.headers["Link"] = f'<{documentation}>; rel="describedby"'
    return response
