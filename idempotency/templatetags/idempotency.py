"""``{% load idempotency %} <form method="post">{% csrf_token %}{% idempotency_token "checkout" %} …``"""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from idempotency.exceptions import IdempotencyError
from idempotency.keys import Scope
from idempotency.policies.token import FORM_FIELD, TokenPolicy, issue_to_caller
from idempotency.signals import announce, refused

register = template.Library()


@register.simple_tag(takes_context=True)
def idempotency_token(
    context: template.Context,
    purpose: str | None = None,
    *,
    holder: Scope | None = None,
    alias: str = "default",
) -> SafeString:
    """A hidden field with a fresh token of the user's, or of an anonymous visitor's session.

    ``purpose`` is that of the view which the form is sent to; ``holder`` what that view's
    ``get_idempotency_scope()`` returns, where it has one of its own. Never put it on a cached page. The
    field is empty when no token can be had, and the refusal is announced.
    """
    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise template.TemplateSyntaxError(
            "{% idempotency_token %} needs the request: render the template with it, as render() does."
        )
    if "" in (purpose, holder):
        raise template.TemplateSyntaxError(
            "{% idempotency_token %} was given an empty value: put a text into quotes, or see whether the "
            "variable is set."
        )
    try:
        token = str(issue_to_caller(FormPolicy(holder, alias), request, purpose or ""))
    except IdempotencyError as error:
        # The page can be read all the same; its form will be told that a token is missing.
        announce(refused, None, using=None, mechanism="token", error=error)
        token = ""
    # Or some browsers put the used token back when they return to the page.
    return format_html('<input type="hidden" name="{}" value="{}" autocomplete="off">', FORM_FIELD, token)


class FormPolicy(TokenPolicy):
    def __init__(self, holder: Scope | None, alias: str) -> None:
        self.holder = holder
        self.idempotency_token_alias = alias  # type: ignore[misc]  # the form's, not the class's

    def get_idempotency_scope(self, request: Any) -> Scope | None:
        return self.holder if self.holder is not None else super().get_idempotency_scope(request)
