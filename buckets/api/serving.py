"""An object's bytes as an HTTP answer: a redirect to the needle, or a stream of several chunks.

For whoever may read the object; who that is has been asked before.
"""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.http import content_disposition_header, http_date
from rest_framework.request import Request

from buckets.api.ranges import Unsatisfiable, parse_range
from buckets.errors import ObjectChanged, RangeUnsatisfiable
from buckets.names import etag_matches
from buckets.selectors.objects import Found
from buckets.services.content import ObjectStream
from buckets.services.downloads import file_name
from keys.rights import KeyRights

NO_STORE = {"Cache-Control": "no-store"}
"""Of answers with signed URLs in them."""

HARMLESS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Whatever an object holds, it runs nothing in the master's origin."""


def redirect_to(url: str, found: Found) -> HttpResponse:
    """307 keeps method and headers, so conditions and ranges are the volume server's to judge.

    That the URL must not be kept says nothing of the bytes behind it.
    """
    modified = {"Last-Modified": http_date(found.updated_at.timestamp())}
    response = HttpResponseRedirect(url, headers={**NO_STORE, **modified})
    response.status_code = 307
    return response


def whole_or_range(
    request: HttpRequest | Request, found: Found, reader: KeyRights, *, inline: bool = False
) -> HttpResponseBase:
    """The bytes through the master, as the request's conditions and range have them; of a HEAD the headers alone.

    ``inline``: browsers show them instead of saving them. Raises ObjectChanged, RangeUnsatisfiable,
    Busy, NeedleUnreadable.
    """
    if_match = request.headers.get("If-Match")
    if if_match is not None and not etag_matches(if_match, found.etag):
        raise ObjectChanged(f"The object has the ETag {found.etag!r}, and If-Match asked for another.")
    headers = _headers(found, inline=inline)
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
            raise RangeUnsatisfiable(f"The object has {found.size} bytes.", size=found.size) from None
        if wanted is not None:
            first, last, status = *wanted, 206
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    headers["Content-Length"] = str(last - first + 1)
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    stream = ObjectStream(found, reader=reader, first=first, last=last)
    return StreamingHttpResponse(stream, status=status, headers=headers)


def _headers(found: Found, *, inline: bool) -> dict[str, str]:
    # Django quotes a line feed at the very end as it is, and refuses the header then.
    name = (file_name(found.key) or "").rstrip("\n")
    return {
        **HARMLESS,
        "Content-Type": found.content_type,
        "Content-Disposition": content_disposition_header(not inline, name) or "inline",
        "ETag": f'"{found.etag}"',
        "Last-Modified": http_date(found.updated_at.timestamp()),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
    }
