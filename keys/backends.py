"""How Django's sessions sign in: with a key."""

from typing import Any

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.dispatch import receiver
from django.http import HttpRequest

from keys.errors import KeyRefused, TooManyFailures
from keys.models import ApiKey
from keys.ring import add_to_ring, carry_ring, held_keys
from keys.services.sign_in import record_sign_in, record_sign_out, sign_in


class KeyBackend(BaseBackend):
    """Authenticates by the text of a key; a session of a dead key is nobody's."""

    def authenticate(self, request: HttpRequest | None, key: str | None = None, **_: Any) -> ApiKey | None:
        if key is None:
            return None
        address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
        if request is not None:
            carry_ring(request)
        try:
            return sign_in(key_text=key, address=address)
        except (KeyRefused, TooManyFailures):
            return None

    def get_user(self, user_id: int) -> ApiKey | None:
        key = ApiKey.objects.filter(pk=user_id).first()
        return key if key is not None and key.is_active else None


@receiver(user_logged_in)
def session_begins(request: HttpRequest, user: Any, **_: Any) -> None:
    record_sign_in(key=user)
    add_to_ring(request, user)


@receiver(user_logged_out)
def session_ends(request: HttpRequest, **_: Any) -> None:
    """With all of its keys, whichever page it was that ended it."""
    for key in held_keys(request):
        record_sign_out(key=key)
