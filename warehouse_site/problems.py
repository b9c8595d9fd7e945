"""From domain errors to answers: `application/problem+json` (RFC 9457).

The one table that says which error is which HTTP status stands here; an app's own errors inherit a row from the
family they belong to.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import islice
from types import MappingProxyType
from typing import Any, cast

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from rest_framework import exceptions as drf
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer
from rest_framework.response import Response

from keys import errors
from keys.services.denials import note_denied
from warehouse_site import logs
from warehouse_site.sqlite.file import DatabaseLost

logger = logging.getLogger("warehouse.problems")

CONTENT_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="warehouse"'
RETRY_AFTER_S = 1
MAX_FIELDS = 20
"""So many fields of a body are told to be wrong in one answer, however many are."""
MAX_ERROR_CHARS = 500
"""Of a name or a text of theirs: both may repeat what was sent."""

STATUS: dict[type[errors.WarehouseError], int] = {
    errors.WarehouseError: 500,
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.OutOfRange: 416,
    errors.TooManyFailures: 429,
    errors.Unavailable: 503,
    errors.NoSpace: 507,
}
"""The status of a family of errors: the nearest class above an error decides."""

_DRF_CODES: dict[type[drf.APIException], str] = {
    drf.NotAuthenticated: "not_authenticated",
    drf.AuthenticationFailed: "token_refused",
    drf.PermissionDenied: "permission_denied",
    drf.NotFound: "not_found",
    drf.MethodNotAllowed: "method_not_allowed",
    drf.NotAcceptable: "not_acceptable",
    drf.ParseError: "bad_request",
    drf.UnsupportedMediaType: "unsupported_media_type",
    drf.Throttled: "too_many_requests",
}


FRAMEWORK_ERRORS: dict[str, tuple[int, str]] = {
    code: (kind.status_code, HTTPStatus(kind.status_code).phrase) for kind, code in _DRF_CODES.items()
}
"""Status and title of the errors that Django REST framework itself finds, by code."""

_TARGETS = ("key", "key_id", "upload_id", "share_id", "volume_id", "server_id")
"""The parts of a path that the audit trail tells; others may be secrets."""


class DatabaseBusy(errors.Unavailable):
    """The database did not answer in time, or not at all."""

    code = "database_unavailable"
    title = "The database cannot be used at the moment"


class NotText(errors.Invalid):
    """Bytes that should be UTF-8 and are not."""

    code = "bad_request"
    title = "The request cannot be understood"


def status_of(error: str | errors.WarehouseError | type[errors.WarehouseError]) -> int:
    """The HTTP status of an error, its class, or its stable code. KeyError for a code that no class has."""
    if isinstance(error, str):
        for known in family(errors.WarehouseError):
            if known.code == error:
                return status_of(known)
        raise KeyError(error)
    kind = error if isinstance(error, type) else type(error)
    return next(STATUS[parent] for parent in kind.__mro__ if parent in STATUS)


def problem(error: errors.WarehouseError) -> dict[str, object]:
    """The members of an error's problem document."""
    return _document(
        status=status_of(error), code=error.code, title=error.title, detail=error.detail, extra=error.extra
    )


def problem_response(error: errors.WarehouseError, request: HttpRequest | None = None) -> HttpResponse:
    """The answer of a plain Django view to a domain error."""
    body = problem(error)
    status = note_refusal(error, request)
    response = JsonResponse(body, status=status, content_type=CONTENT_TYPE)
    _keep_from_django_s_log(response)
    for name, value in _headers(status, error.extra).items():
        response.headers[name] = value
    return response


def note_refusal(error: errors.WarehouseError, request: HttpRequest | None) -> int:
    """The status of an error; what the log and the audit trail have to know of it, they know then."""
    status = status_of(error)
    _log(request, status, error)
    _note_if_denied(request, status, error.code, error.detail)
    return status


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Django REST framework's EXCEPTION_HANDLER; None lets an unexpected error become a logged 500."""
    if isinstance(error, Http404):
        error = drf.NotFound()
    elif isinstance(error, DjangoPermissionDenied):
        error = drf.PermissionDenied()
    elif isinstance(error, DatabaseLost):
        error = DatabaseBusy(str(error))
    elif isinstance(error, OperationalError):
        logger.error("the database failed", exc_info=error)
        error = DatabaseBusy()
    request = context.get("request")
    if isinstance(error, errors.WarehouseError):
        body, extra = problem(error), error.extra
    elif isinstance(error, drf.APIException):
        body, extra = _from_drf(error)
    else:
        return None
    status = cast("int", body["status"])
    _log(request, status, error)
    _note_if_denied(request, status, cast("str", body["code"]), cast("str", body["detail"]))
    response = Response(body, status=status, headers=_headers(status, extra))
    _keep_from_django_s_log(response)
    renderer = getattr(request, "accepted_renderer", None)
    if request is not None and (renderer is None or renderer.format != BrowsableAPIRenderer.format):
        # Whatever else the view renders, be it YAML or bytes, an error is a problem document.
        request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        response.content_type = CONTENT_TYPE
    response.exception = True
    return response


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:  # noqa: ARG001
    """Django's handler400."""
    return _page_or_problem(request, 400, "bad_request", "The request cannot be understood")


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:  # noqa: ARG001
    """Django's handler403."""
    _note_if_denied(request, 403, "permission_denied", "")
    return _page_or_problem(request, 403, "permission_denied", "This is not allowed")


def csrf_refused(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001
    """Django's CSRF_FAILURE_VIEW: a form of another site, or of a page from before somebody signed in."""
    return _page_or_problem(
        request,
        403,
        "permission_denied",
        "The form is out of date",
        advice="Nothing was done. Go back, load the page again, and send it once more.",
    )


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:  # noqa: ARG001
    """Django's handler404."""
    return _page_or_problem(request, 404, "not_found", "There is nothing here")


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500: what happened is in the log, never in the answer."""
    if isinstance(sys.exception(), (OperationalError, DatabaseLost)):
        return _page_or_problem(request, 503, DatabaseBusy.code, DatabaseBusy.title)
    return _page_or_problem(request, 500, "internal_error", "Something went wrong inside the store")


def error_page(request: HttpRequest, status: int, **told: Any) -> HttpResponse:
    """What a person is told of what was refused, which the log knows of (`note_refusal`); arguments of `_page`."""
    page = _page(request, status, **told)
    _keep_from_django_s_log(page)
    return page


def _page(
    request: HttpRequest,
    status: int,
    *,
    title: str,
    detail: str = "",
    advice: str = "",
    section: str = "",
    extra: Mapping[str, object] = MappingProxyType({}),
) -> HttpResponse:
    """``advice``: what to do, where it is not what there is to do about any error of this status.

    From 500 on nothing is asked of the database for it, whatever the frame would show.
    """
    context: dict[str, object] = {
        "status": status,
        "title": title,
        "detail": detail,
        "advice": advice,
        "section": section,
    }
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        context |= {"navigation": (), "held_keys": (), "user": None, "messages": ()}
    page = render(request, "error.html", context, status=status)
    for name, value in _headers(status, extra).items():
        page.headers[name] = value
    page.headers["Cache-Control"] = "no-store"
    return page


def _page_or_problem(request: HttpRequest, status: int, code: str, title: str, *, advice: str = "") -> HttpResponse:
    if request.path_info.startswith(("/api/", "/.well-known/")):
        body = _document(status=status, code=code, title=title, detail=f"{title}. {advice}".strip(), extra={})
        return JsonResponse(body, status=status, headers=_headers(status, {}), content_type=CONTENT_TYPE)
    return _page(request, status, title=title, advice=advice)


def _from_drf(error: drf.APIException) -> tuple[dict[str, object], dict[str, object]]:
    extra: dict[str, object] = {}
    if isinstance(error, drf.ValidationError):
        found = _field_errors(error.detail)
        fields = {_cut(name): [_cut(text) for text in texts] for name, texts in islice(found.items(), MAX_FIELDS)}
        extra["errors"] = fields
        detail = "; ".join(f"{field}: {' '.join(texts)}" for field, texts in fields.items())
        if len(found) > MAX_FIELDS:
            detail += "; and more"
        title, code = errors.Invalid.title, errors.Invalid.code
    else:
        code = next((known for kind, known in _DRF_CODES.items() if isinstance(error, kind)), "error")
        title = HTTPStatus(error.status_code).phrase
        detail = str(error.detail)
        if (wait_s := getattr(error, "wait", None)) is not None:
            extra["retry_after_s"] = max(1, round(wait_s))
    document = _document(status=error.status_code, code=code, title=title, detail=detail, extra=extra)
    return document, extra


def _cut(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}…"


def _field_errors(detail: Any, path: str = "") -> dict[str, list[str]]:
    """Nested errors of a serializer, flattened to `grants.0.prefix` style paths."""
    found: dict[str, list[str]] = {}
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            name = "request" if name == "non_field_errors" else str(name)
            found.update(_field_errors(inner, f"{path}.{name}" if path else name))
    elif isinstance(detail, list) and any(isinstance(inner, (Mapping, list)) for inner in detail):
        for index, inner in enumerate(detail):
            found.update(_field_errors(inner, f"{path}.{index}" if path else str(index)))
    else:
        texts = detail if isinstance(detail, list) else [detail]
        if texts:
            found[path or "request"] = [_sayable(str(text)) for text in texts]
    return found


def _sayable(text: str) -> str:
    """A text that quotes what JSON can hold and UTF-8 cannot, as one that can be answered."""
    return text.encode(errors="backslashreplace").decode()


def _document(*, status: int, code: str, title: str, detail: str, extra: Mapping[str, object]) -> dict[str, object]:
    return {
        **extra,
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": logs.request_id.get(),
    }


def _headers(status: int, extra: Mapping[str, object]) -> dict[str, str]:
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": CHALLENGE}
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return {"Content-Range": f"bytes */{extra['size']}"}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return {"Retry-After": str(extra.get("retry_after_s", RETRY_AFTER_S))}
    return {}


def _note_if_denied(request: Any, status: int, code: str, detail: str) -> None:
    """Missing rights and refused tokens go to the audit trail, by route and method; a refused key is there already."""
    if status != HTTPStatus.FORBIDDEN and code != errors.TokenRefused.code:
        return
    match = getattr(request, "resolver_match", None)
    if match is None:
        return
    named = match.kwargs
    target = next((str(named[name]) for name in _TARGETS if name in named), "")
    action = f"{match.view_name.removeprefix('api:')}.{request.method.lower()}"
    note_denied(action, bucket=str(named.get("bucket", "")), target=target, code=code, reason=detail)


def _log(request: Any, status: int, error: Exception) -> None:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        level = logging.ERROR if status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.WARNING
        logger.log(level, "%s: %s", getattr(request, "path", "-"), error)


def _keep_from_django_s_log(response: HttpResponse) -> None:
    """Django would log every answer from 500 on once more, and as an ERROR: a bucket that is full is nobody's error."""
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        response._has_been_logged = True  # type: ignore[attr-defined]  # what django.utils.log looks at


def family(root: type[errors.WarehouseError]) -> Iterator[type[errors.WarehouseError]]:
    """The class and all below it."""
    yield root
    for child in root.__subclasses__():
        yield from family(child)
