from __future__ import annotations

from django.contrib.auth.models import User
from rest_framework.authentication import BaseAuthentication


class HeaderAuthentication(BaseAuthentication):
    """Believes the header ``X-User``: who may call is not what these tests are about."""

    def authenticate(self, request):
        name = request.META.get("HTTP_X_USER")
        return (User.objects.get(username=name), None) if name else None
