"""Where clients fetch one-time tokens: ``path("idempotency/", include("idempotency.urls"))``."""

from __future__ import annotations

from typing import Any

from django.http.response import HttpResponseBase
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import conf
from idempotency.exceptions import IdempotencyError
from idempotency.policies.token import TokenPolicy, issue_to_caller
from idempotency.tokens import IssuedToken, tokens
from idempotency.tokens.texts import LONGEST_PURPOSE

LARGEST_BATCH = 100


class TokenRequestSerializer(serializers.Serializer[Any]):
    """``purpose``: what the view that will consume it calls ``idempotency_token_purpose``.
    ``count``: the answer is a list of so many."""

    purpose = serializers.CharField(max_length=LONGEST_PURPOSE, allow_blank=True, default="")
    count = serializers.IntegerField(min_value=1, max_value=LARGEST_BATCH, required=False)

    def validate_count(self, count: int) -> int:
        limit: int = self.context["limit"]
        if count > limit:
            raise serializers.ValidationError(f"Tokens are issued {limit} at a time at most.")
        return count


class TokenView(TokenPolicy, APIView):
    """POST issues a one-time token to the caller: the user, or for anonymous callers their session.

    Authentication, permissions and throttles are the project's. Subclass it for others, for another
    ``idempotency_token_alias``, or with the ``get_idempotency_scope()`` of the views that consume.
    """

    def post(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        limit = tokens(self.idempotency_token_alias).limit
        serializer = TokenRequestSerializer(data=request.data, context={"limit": limit})
        serializer.is_valid(raise_exception=True)
        try:
            issued = issue_to_caller(self, request, **serializer.validated_data)
        except IdempotencyError as error:
            return self.get_idempotency_refusal(request, error)
        content = [described(token) for token in issued] if isinstance(issued, list) else described(issued)
        return Response(content, status=201, headers={"Cache-Control": "no-store"})


def described(issued: IssuedToken) -> dict[str, Any]:
    return {"token": issued.token, "header": conf.token_header(), "expires_at": issued.expires_at}
