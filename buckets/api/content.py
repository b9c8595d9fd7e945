"""`content`: an object's bytes at one address, for browsers and curl."""

from collections.abc import Iterable

from django.http import HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header, http_date
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from buckets.api.ranges import Unsatisfiable, parse_range
from buckets.api.views import NO_STORE, KeyedView
from buckets.errors import NeedleUnreadable, ObjectChanged, ObjectUnknown
from buckets.names import etag_matches
from buckets.selectors import Found, find_objects, get_bucket
from buckets.services.content import ObjectStream
from buckets.services.downloads import file_name, sign_chunks, url_expiry
from keys.api import rights
from keys.permissions import Permission
from keys.rights import KeyRights

HARMLESS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Whatever an object holds, it runs nothing in the master's origin."""


class Whatever(BaseContentNegotiation):
    """The bytes are of the object's type, whatever the client would like; errors are JSON."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class Content(KeyedView):
    """An object's bytes. Of one chunk: a redirect to the volume server. Of several: a stream, also of a range."""

    content_negotiation_class = Whatever

    @extend_schema(
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: OpenApiResponse(description="If-None-Match names this version."),
            307: OpenApiResponse(description="The object has one chunk: Location is a signed URL."),
            416: OpenApiResponse(description="The range lies behind the object's end."),
        }
    )
    def get(self, request: Request, bucket: str, key: str) -> HttpResponseBase:
        reader = rights(request)
        reader.require(Permission.OBJECTS_READ, bucket=bucket, key=key)
        expires_at = url_expiry()
        found = find_objects(bucket_id=get_bucket(bucket).pk, keys=[key]).get(key)
        if found is None:
            raise ObjectUnknown(f"There is no object {key!r} in bucket {bucket!r}.")
        if len(found.chunks) == 1:
            return _redirect(found, reader, expires_at)
        return _whole_or_range(request, found, reader)


def _redirect(found: Found, reader: KeyRights, expires_at: int) -> HttpResponseBase:
    """307 keeps method and headers, so conditions and ranges are the volume server's to judge.

    That the URL must not be kept says nothing of the bytes behind it.
    """
    [urls] = sign_chunks([found], reader=reader, expires_at=expires_at)
    if not urls:
        raise NeedleUnreadable("The volume server that holds this object is not known yet.")
    modified = {"Last-Modified": http_date(found.updated_at.timestamp())}
    response = HttpResponseRedirect(urls[0], headers={**NO_STORE, **modified})
    response.status_code = 307
    return response


def _whole_or_range(request: Request, found: Found, reader: KeyRights) -> HttpResponseBase:
    if (if_match := request.headers.get("If-Match")) and not etag_matches(if_match, found.etag):
        raise ObjectChanged(f"The object has the ETag {found.etag!r}, and If-Match asked for another.")
    headers = _headers(found)
    # If-None-Match compares weakly (RFC 9110, section 13.1.2).
    if (if_none_match := request.headers.get("If-None-Match")) and etag_matches(
        if_none_match.replace("W/", ""), found.etag
    ):
        # Caches put these in the place of those they have, so they are those of a 200, its length as well (RFC 9110,
        # sections 8.6 and 15.4.5); left to Django, the object would become an empty page of HTML.
        return HttpResponse(status=304, headers={**headers, "Content-Length": str(found.size)})
    first, last, status = 0, found.size - 1, 200
    asked = request.headers.get("Range")
    if asked and request.method == "GET" and request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
        try:
            wanted = parse_range(asked, found.size)
        except Unsatisfiable:
            return _unsatisfiable(found)
        if wanted is not None:
            first, last, status = *wanted, 206
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    headers["Content-Length"] = str(last - first + 1)
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    stream = ObjectStream(found, reader=reader, first=first, last=last)
    return StreamingHttpResponse(stream, status=status, headers=headers)


def _headers(found: Found) -> dict[str, str]:
    return {
        **HARMLESS,
        "Content-Type": found.content_type,
        "Content-Disposition": content_disposition_header(True, file_name(found.key) or "") or "attachment",  # noqa: FBT003
        "ETag": f'"{found.etag}"',
        "Last-Modified": http_date(found.updated_at.timestamp()),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
    }


def _unsatisfiable(found: Found) -> HttpResponseBase:
    body = {
        "type": "about:blank",
        "title": "The range lies behind the object's end",
        "status": 416,
        "code": "range_unsatisfiable",
        "detail": f"The object has {found.size} bytes.",
    }
    headers = {"Content-Range": f"bytes */{found.size}"}
    return Response(body, status=416, headers=headers, content_type="application/problem+json")
