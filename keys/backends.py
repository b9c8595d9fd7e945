"""How Django's sessions sign in: with a key."""

from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.http import HttpRequest

from keys.errors import KeyRefused, TooManyFailures
from keys.models import ApiKey
from keys.services.sign_in import sign_in


class KeyBackend(BaseBackend):
    """Authenticates by the text of a key; a session of a dead key is nobody's."""

    def authenticate(self, request: HttpRequest | None, key: str | None = None, **_: Any) -> ApiKey | None:
        if key is None:
            return None
        address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
        try:
            return sign_in(key_text=key, address=address)
        except (KeyRefused, TooManyFailures):
            return None

    def get_user(self, user_id: int) -> ApiKey | None:
        key = ApiKey.objects.filter(pk=user_id).first()
        return key if key is not None and key.is_active else None
