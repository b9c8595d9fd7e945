"""What the OpenAPI document says about signing in, and about what can go wrong."""

from collections.abc import Callable
from typing import Any, TypeVar

from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension

from keys.errors import WarehouseError

Method = TypeVar("Method", bound=Callable[..., Any])


class TokenAuthenticationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How it reads in the OpenAPI document."""

    target_class = "keys.api.authentication.TokenAuthentication"
    name = "accessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "From POST /api/v1/tokens."}


def raises(*errors: type[WarehouseError]) -> Callable[[Method], Method]:
    """Tells the OpenAPI document which errors of its own a method of a view answers with.

    Those that any method has go without saying: no sign-in, no right, a body that is not valid and the like.
    """

    def mark(method: Method) -> Method:
        method.errors = errors  # type: ignore[attr-defined]
        return method

    return mark


class SessionAuthenticationScheme(SessionScheme):  # type: ignore[no-untyped-call]
    """Django REST framework's own, under our class."""

    target_class = "keys.api.authentication.SessionAuthentication"
