"""`Authorization: Bearer <access token>` for Django REST framework."""

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.authentication import SessionAuthentication as BaseSessionAuthentication
from rest_framework.request import Request

from keys.errors import TokenRefused
from keys.models import ApiKey
from keys.ring import KEY_HEADER, require_same_key
from keys.selectors import live_key
from keys.services.acting import identify
from keys.services.sign_in import mark_used
from keys.tokens import read_access


class TokenAuthentication(BaseAuthentication):
    """Takes genuine tokens of keys that live and have not been weakened since; without one, the next has a try."""

    def authenticate(self, request: Request) -> tuple[ApiKey, None] | None:
        scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        key_id, generation = read_access(text.strip())
        found = live_key(key_id)
        identify(key_id=key_id, key_name="" if found is None else found.key.name)
        if found is None or found.rights.generation != generation or not found.key.is_active:
            raise TokenRefused("The key was changed, deleted, or has expired: sign in with it again.")
        mark_used(key=found.key)
        return found.key, None

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="warehouse"'


class SessionAuthentication(BaseSessionAuthentication):
    """Django REST framework's own, for the browsable API; the audit trail learns whose session it is."""

    def authenticate(self, request: Request) -> tuple[ApiKey, None] | None:
        key = getattr(request._request, "user", None)
        if isinstance(key, ApiKey):
            identify(key_id=key.pk, key_name=key.name)  # before a missing CSRF token is refused
            require_same_key(request._request, said=request.headers.get(KEY_HEADER))
        return super().authenticate(request)
