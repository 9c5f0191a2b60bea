"""Idempotency for Django views, @api_view functions, and any other function."""

from idempotency.decorators.functions import idempotent
from idempotency.decorators.views import idempotent_view, require_idempotency_token

__all__ = ["idempotent", "idempotent_view", "require_idempotency_token"]
