"""The keys API, and how every API view learns what its caller may do."""

from rest_framework.request import Request

from keys.errors import TokenRefused, Unauthenticated
from keys.models import ApiKey
from keys.rights import KeyRights
from keys.selectors import rights_of


def rights(request: Request) -> KeyRights:
    """The rights of the key that makes this request. Raises Unauthenticated where there is none."""
    if not isinstance(request.user, ApiKey):
        raise Unauthenticated("Send `Authorization: Bearer <access token>`.")
    found = rights_of(request.user.pk)
    if found is None or not found.is_active:
        raise TokenRefused("The key was deleted or has expired.")
    return found
