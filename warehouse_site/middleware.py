"""What every request passes through."""

import codecs
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.core.signals import request_finished
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import resolve
from django.utils.functional import SimpleLazyObject

from keys.actions import Through
from keys.errors import TooLarge
from keys.models import ApiKey
from keys.ring import acting_key
from keys.services.acting import Acting, acting_as, identify
from keys.services.denials import write_denials
from warehouse_site import logs
from warehouse_site.problems import NotText, error_page, problem_response, status_of

REQUEST_ID_HEADER = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

INTERNAL_PREFIX = "/api/v1/internal/"
"""What only volume servers call."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; "
    "img-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
API_PAGES = ("/api/v1", "/api/docs")
API_PAGES_POLICY = f"{CONTENT_SECURITY_POLICY}; style-src 'self' 'unsafe-inline'"
"""Of the browsable API and the API documents alone: their libraries set styles in the page. Scripts they may not."""
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Takes the client's request id over, or makes one; it stands in the answer and in every log line."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        identifier = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        logs.request_id.set(identifier)
        response = self.get_response(request)
        response.headers[REQUEST_ID_HEADER] = identifier
        return response


@receiver(request_finished)
def forget_request_id(**_: Any) -> None:
    """Only when all is sent: Django logs refusals after the middleware, and bodies may be streamed after it."""
    logs.request_id.set(logs.NO_REQUEST)


class ActingMiddleware:
    """Opens the scope in which services tell the audit trail who did what, from where; it ends with the request."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        who = Acting(
            through=through(request.path_info),
            address=request.META.get("REMOTE_ADDR", ""),
            request_id=logs.request_id.get(),
        )
        with acting_as(who):
            response = self.get_response(request)
            write_denials()  # those that no try will write any more
            return response

    def process_view(self, request: HttpRequest, *_: Any) -> None:
        """A session's key, once it is known; whoever comes with a token is known by its authentication."""
        if settings.SESSION_COOKIE_NAME in request.COOKIES and through(request.path_info) != Through.API:
            key = getattr(request, "user", None)
            if isinstance(key, ApiKey):
                identify(key_id=key.pk, key_name=key.name)


def through(path: str) -> Through:
    """Which door of the house a path is."""
    if path.startswith(INTERNAL_PREFIX):
        return Through.SERVER
    if path.startswith("/api/v1"):
        return Through.API
    return Through.ADMIN if path.startswith("/admin/") else Through.WEB


class HeadMiddleware:
    """Answers to HEAD have the headers of a GET and no body (RFC 9110, section 9.3.2)."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.method == "HEAD":
            if isinstance(response, StreamingHttpResponse):
                response.streaming_content = iter(())  # what it held is closed with the response
            elif isinstance(response, HttpResponse):
                response.content = b""  # the Content-Length stays that of a GET
        return response


class SecurityHeadersMiddleware:
    """Adds the house's security headers to every answer that does not bring its own: refusals of others included."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.path_info.startswith(API_PAGES) and response.headers.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Content-Security-Policy", API_PAGES_POLICY)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response


class BodyLimitMiddleware:
    """Refuses bodies that no call of this API needs, before any of them is read.

    The length that counts is the declared one: without a Content-Length Django reads no body at all.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        declared = request.META.get("CONTENT_LENGTH") or "0"
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if declared.isdigit() and int(declared) > limit:
            response: HttpResponse = problem_response(
                TooLarge(f"A body of {declared} bytes; {limit} are allowed."), request
            )
            response.headers["Connection"] = "close"
            return response
        return self.get_response(request)


class Utf8Middleware:
    """Refuses queries that are not UTF-8: Django would put U+FFFD in place of their bytes, and find other things.

    So it does with what is declared to be of another charset: Django would read the query by it as well as the body.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        charset = request.content_params.get("charset") if request.content_params else None
        if charset is not None and not _is_utf8(charset):
            return _refusal(request, "The charset of a request is UTF-8.")
        query = request.META.get("QUERY_STRING", "")
        if "%" in query or not query.isascii():
            try:
                unquote_to_bytes(query.encode("latin-1")).decode()
            except UnicodeError:
                return _refusal(request, "The query is not UTF-8.")
        return self.get_response(request)


def _refusal(request: HttpRequest, why: str) -> HttpResponse:
    error = NotText(why)
    from_a_browser = "text/html" in request.headers.get("Accept", "")
    if from_a_browser and through(request.path_info) == Through.WEB:
        return error_page(request, status_of(error), title=error.title, detail=error.detail)
    return problem_response(error, request)


def _is_utf8(charset: str) -> bool:
    try:
        return codecs.lookup(charset).name == "utf-8"
    except (LookupError, ValueError):  # ValueError: a NUL in it
        return False


class InternalMiddleware:
    """Takes what volume servers call straight to its view, past all that is there for people and their browsers.

    Their requests are signed, name no session and bring no cookie, and each confirm is waited for by many writers.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(INTERNAL_PREFIX):
            return self.get_response(request)
        match = resolve(request.path_info)
        request.resolver_match = match
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
        response.headers["Content-Length"] = str(len(response.content))
        return response


class KeyRingMiddleware(AuthenticationMiddleware):
    """Whose session it is, when it is first asked: the end of one key's leaves the session's other keys to it."""

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        request.user = SimpleLazyObject(lambda: acting_key(request))  # type: ignore[assignment]
